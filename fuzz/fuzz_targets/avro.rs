//! `dirigent::fuzzing::avro`, called with what libFuzzer thinks of.
#![no_main]

dirigent_fuzz::target!(dirigent::fuzzing::avro);
