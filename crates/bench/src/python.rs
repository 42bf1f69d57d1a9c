//! The few corners of Python's standard library that decide bytes in a prompt, a hash or a score.
//! Each function names the behaviour it reproduces; the fixtures in the tests were made with CPython 3.11.

mod json;
mod random;
mod regex;
mod text;

pub use json::{float_repr, json_dumps, list_repr, str_repr};
pub use random::Random;
pub use regex::Regex;
pub use text::{
    capitalize, is_digits, is_space, lower, lstrip, rstrip, split_whitespace, strip, strip_punctuation,
};
