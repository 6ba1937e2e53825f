//! `dirigent::fuzzing::config`, called with what libFuzzer thinks of.
#![no_main]

dirigent_fuzz::target!(dirigent::fuzzing::config);
