use polars::prelude::{AnyValue, DataFrame};
use serde_json::{Number, Value, json};

use crate::Row;

/// Row `index` of a frame, fields in column order. `Err` names the field that could not be read.
pub(crate) fn row_of(frame: &DataFrame, index: usize) -> Result<Row, (String, String)> {
    frame
        .columns()
        .iter()
        .map(|column| {
            let name = column.name().to_string();
            let cell = column.get(index).map_err(|e| (name.clone(), e.to_string()))?;
            Ok((name, json_of(&cell)))
        })
        .collect()
}

/// A cell as JSON. Integers, floats, strings, booleans, lists and structs map to themselves; NaN and
/// infinities, which JSON lacks, become null; dates, times and decimals become the text polars shows;
/// binary becomes its length and bytes in hexadecimal.
pub(crate) fn json_of(cell: &AnyValue<'_>) -> Value {
    match cell {
        AnyValue::Null => Value::Null,
        AnyValue::Boolean(v) => json!(v),
        AnyValue::String(v) => json!(v),
        AnyValue::StringOwned(v) => json!(v.as_str()),
        AnyValue::UInt8(v) => json!(v),
        AnyValue::UInt16(v) => json!(v),
        AnyValue::UInt32(v) => json!(v),
        AnyValue::UInt64(v) => json!(v),
        AnyValue::Int8(v) => json!(v),
        AnyValue::Int16(v) => json!(v),
        AnyValue::Int32(v) => json!(v),
        AnyValue::Int64(v) => json!(v),
        AnyValue::Float32(v) => number(f64::from(*v)),
        AnyValue::Float64(v) => number(*v),
        AnyValue::List(items) => Value::Array(items.iter().map(|item| json_of(&item)).collect()),
        AnyValue::Struct(_, _, fields) => object(fields.iter().map(|f| f.name().to_string()), cell),
        AnyValue::StructOwned(parts) => object(parts.1.iter().map(|f| f.name().to_string()), cell),
        AnyValue::Binary(bytes) => binary(bytes),
        AnyValue::BinaryOwned(bytes) => binary(bytes),
        other => Value::String(other.to_string()),
    }
}

fn number(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

fn object(names: impl Iterator<Item = String>, cell: &AnyValue<'_>) -> Value {
    Value::Object(names.zip(cell._iter_struct_av().map(|v| json_of(&v))).collect())
}

fn binary(bytes: &[u8]) -> Value {
    use std::fmt::Write as _;
    let mut hex = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(hex, "{byte:02x}");
    }
    json!({ "bytes": bytes.len(), "hex": hex })
}
