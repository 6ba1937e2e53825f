//! `dirigent::fuzzing::schema`, called with what libFuzzer thinks of.
#![no_main]

dirigent_fuzz::target!(dirigent::fuzzing::schema);
