//! What templates expect of Python beyond Jinja itself.

use jiff::civil::DateTime;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};

/// Containers inside each other that `tojson` writes; indentation that it takes.
const DEEPEST_JSON: usize = 64;
const WIDEST_INDENT: usize = 16;
/// Numbers of a `range`: filters take all of them in one instruction.
const LONGEST_RANGE: usize = 10_000;

pub(super) fn install(environment: &mut Environment<'_>, now: DateTime) {
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(format_as_python);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", move |format: String| strftime(now, &format));
    environment.add_function("range", range);
    environment.add_filter("tojson", to_json);
}

fn range(first: isize, end: Option<isize>, step: Option<isize>) -> Result<Value, Error> {
    let range = minijinja::functions::range(first, end, step)?;
    if range.len().is_none_or(|count| count > LONGEST_RANGE) {
        return Err(Error::new(ErrorKind::InvalidOperation, "range has too many elements"));
    }
    Ok(range)
}

/// Python spells its constants `True`, `False` and `None`.
fn format_as_python(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let spelled = match value.kind() {
        ValueKind::Bool if value.is_true() => Value::from("True"),
        ValueKind::Bool => Value::from("False"),
        ValueKind::None => Value::from("None"),
        _ => return minijinja::escape_formatter(out, state, value),
    };
    minijinja::escape_formatter(out, state, &spelled)
}

fn strftime(now: DateTime, format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, now)
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now(`{format}`): {e}")))
}

/// `json.dumps(value, ensure_ascii=False, indent=..., separators=..., sort_keys=...)`, which is how
/// `transformers` redefines the filter: no HTML escapes, a space after `,` and `:`.
#[expect(clippy::needless_pass_by_value, reason = "how minijinja calls filters")]
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    // Accepted and without effect here, as every character is written as it is.
    let _ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    if indent.is_some_and(|width| width > WIDEST_INDENT) {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson: indent is too wide"));
    }
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators must be two")),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let mut writer = JsonWriter { out: String::new(), item, key, indent, sort: sort_keys == Some(true) };
    writer.write(value, 0)?;
    Ok(writer.out)
}

struct JsonWriter {
    out: String,
    item: String,
    key: String,
    indent: Option<usize>,
    sort: bool,
}

impl JsonWriter {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEEPEST_JSON {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: nested too deeply"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.out.push_str(&value.to_string()),
            ValueKind::Number => self.out.push_str(&python_float(f64::try_from(value.clone())?)),
            ValueKind::String => self.write_string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.write_list(value, depth)?,
            ValueKind::Map => self.write_map(value, depth)?,
            kind => {
                return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {kind} is not JSON")));
            }
        }
        Ok(())
    }

    fn write_string(&mut self, text: &str) {
        self.out.push_str(&serde_json::Value::from(text).to_string());
    }

    fn write_list(&mut self, list: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut empty = true;
        for item in list.try_iter()? {
            self.separate(empty, depth + 1);
            empty = false;
            self.write(&item, depth + 1)?;
        }
        self.close(empty, ']', depth);
        Ok(())
    }

    fn write_map(&mut self, map: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = map.try_iter()?.collect();
        if self.sort {
            keys.sort();
        }
        self.out.push('{');
        for (i, key) in keys.iter().enumerate() {
            self.separate(i == 0, depth + 1);
            self.write_string(&key.to_string());
            self.out.push_str(&self.key);
            self.write(&map.get_item(key)?, depth + 1)?;
        }
        self.close(keys.is_empty(), '}', depth);
        Ok(())
    }

    fn separate(&mut self, first: bool, depth: usize) {
        if !first {
            self.out.push_str(&self.item);
        }
        self.new_line(depth);
    }

    fn close(&mut self, empty: bool, bracket: char, depth: usize) {
        if !empty {
            self.new_line(depth);
        }
        self.out.push(bracket);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(width) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', width * depth));
        }
    }
}

/// Python's `repr`: both languages write the shortest digits that read back the same, Python with an
/// exponent of at least two digits (`1e+16`, `1e-05`) below 1e-4 and from 1e16 on.
fn python_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    if value != 0.0 && !(1e-4..1e16).contains(&value.abs()) {
        let scientific = format!("{value:e}");
        if let Some((digits, exponent)) = scientific.split_once('e') {
            let (sign, size) = exponent.strip_prefix('-').map_or(('+', exponent), |size| ('-', size));
            return format!("{digits}e{sign}{size:0>2}");
        }
    }
    format!("{value:?}")
}
