//! Misuses of the builder are refused by the compiler, in words that tell a newcomer what to do.

#[test]
fn misuses_are_refused_with_messages_that_say_what_to_do() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
