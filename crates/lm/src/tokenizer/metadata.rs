//! Typed reading of GGUF metadata: what is missing or of another type is an error that names the key.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;

use crate::LmError;

#[derive(Clone, Copy)]
pub(super) struct Metadata<'a>(pub(super) &'a HashMap<String, Value>);

pub(super) fn error(problem: impl Into<String>) -> LmError {
    LmError::Tokenizer(problem.into())
}

fn wrong_type(key: &str, expected: &str, value: &Value) -> LmError {
    error(format!("GGUF metadata `{key}` should be {expected}, it is {:?}", value.value_type()))
}

impl<'a> Metadata<'a> {
    fn required(self, key: &str) -> Result<&'a Value, LmError> {
        self.0.get(key).ok_or_else(|| error(format!("GGUF metadata lacks `{key}`")))
    }

    pub(super) fn string(self, key: &str) -> Result<&'a str, LmError> {
        self.optional_string(key)?.ok_or_else(|| error(format!("GGUF metadata lacks `{key}`")))
    }

    pub(super) fn optional_string(self, key: &str) -> Result<Option<&'a str>, LmError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(key, "a string", other)),
        }
    }

    pub(super) fn flag(self, key: &str, default: bool) -> Result<bool, LmError> {
        match self.0.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(wrong_type(key, "a boolean", other)),
        }
    }

    pub(super) fn optional_u32(self, key: &str) -> Result<Option<u32>, LmError> {
        self.0
            .get(key)
            .map(|value| as_u32(value).ok_or_else(|| wrong_type(key, "a non-negative integer", value)))
            .transpose()
    }

    pub(super) fn strings(self, key: &str) -> Result<Vec<&'a str>, LmError> {
        self.items(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    pub(super) fn u32s(self, key: &str) -> Result<Vec<u32>, LmError> {
        self.items(key, "a non-negative integer", as_u32)
    }

    pub(super) fn finite_f32s(self, key: &str) -> Result<Vec<f32>, LmError> {
        self.items(key, "a finite number", |value| match value {
            Value::F32(number) if number.is_finite() => Some(*number),
            _ => None,
        })
    }

    fn items<T>(
        self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Vec<T>, LmError> {
        let Value::Array(values) = self.required(key)? else {
            return Err(wrong_type(key, "an array", self.required(key)?));
        };
        values
            .iter()
            .enumerate()
            .map(|(i, value)| {
                read(value)
                    .ok_or_else(|| error(format!("element {i} of GGUF metadata `{key}` is not {expected}")))
            })
            .collect()
    }
}

fn as_u32(value: &Value) -> Option<u32> {
    match *value {
        Value::U8(n) => Some(u32::from(n)),
        Value::U16(n) => Some(u32::from(n)),
        Value::U32(n) => Some(n),
        Value::U64(n) => u32::try_from(n).ok(),
        Value::I8(n) => u32::try_from(n).ok(),
        Value::I16(n) => u32::try_from(n).ok(),
        Value::I32(n) => u32::try_from(n).ok(),
        Value::I64(n) => u32::try_from(n).ok(),
        Value::F32(_) | Value::F64(_) | Value::Bool(_) | Value::String(_) | Value::Array(_) => None,
    }
}
