//! `dirigent::fuzzing::json_body`, called with what libFuzzer thinks of.
#![no_main]

dirigent_fuzz::target!(dirigent::fuzzing::json_body);
