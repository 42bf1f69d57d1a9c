//! Templates and expressions of task files, rendered by minijinja with Jinja2's settings in
//! lm-evaluation-harness: strict undefined values, the final newline kept, nothing escaped.
//!
//! Task files may come from strangers, so every evaluation has a fuel limit, a recursion limit and an
//! output cap, there is no loader (`include` fails), and data is inserted, never rendered again.

use std::io;
use std::sync::LazyLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Expression, State, UndefinedBehavior, Value};
use serde_json::{Map, Value as Json};

use crate::python;

/// Instructions one evaluation may execute: an endless loop ends after about 2 ms.
const FUEL: u64 = 50_000;
/// Largest text one template may produce, in bytes.
const MAX_OUTPUT_BYTES: usize = 8 << 20;
const MAX_RECURSION: usize = 64;
/// Numbers of a `range`: filters take all of them in one instruction.
const LONGEST_RANGE: usize = 10_000;

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(environment);

/// The named templates of one task.
#[derive(Debug)]
pub(crate) struct Templates {
    environment: Environment<'static>,
}

impl Templates {
    pub(crate) fn new() -> Self {
        Self { environment: ENVIRONMENT.clone() }
    }

    /// Compiles `source` under the name of the field it stands in.
    pub(crate) fn add(&mut self, field: &'static str, source: &str) -> Result<(), String> {
        self.environment.add_template_owned(field, source.to_owned()).map_err(|error| describe(&error))
    }

    /// Renders the template of `field` over a document.
    pub(crate) fn render(&self, field: &'static str, document: &Value) -> Result<String, String> {
        let template = self.environment.get_template(field).map_err(|error| describe(&error))?;
        let mut out = Capped(Vec::new());
        template.render_captured_to(document.clone(), &mut out).map_err(|error| describe(&error))?;
        String::from_utf8(out.0).map_err(|error| error.to_string())
    }
}

impl Templates {
    /// Free variables of all templates, each with its field.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let mut found: Vec<(String, String)> = Vec::new();
        for (field, template) in self.environment.templates() {
            let names = template.undeclared_variables(false).into_iter();
            found.extend(names.filter(|name| !is_global(name)).map(|name| (name, field.to_owned())));
        }
        found.sort();
        found
    }
}

fn is_global(name: &str) -> bool {
    ENVIRONMENT.globals().any(|(known, _)| known == name)
}

/// A compiled expression.
pub(crate) struct Formula(Expression<'static, 'static>);

impl std::fmt::Debug for Formula {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Formula")
    }
}

impl Formula {
    pub(crate) fn new(source: &str) -> Result<Self, String> {
        let compiled = ENVIRONMENT.compile_expression_owned(source.to_owned());
        Ok(Self(compiled.map_err(|error| describe(&error))?))
    }

    /// Its free variables.
    pub(crate) fn variables(&self) -> Vec<String> {
        let mut names: Vec<String> = self.0.undeclared_variables(false).into_iter().collect();
        names.retain(|name| !is_global(name));
        names.sort();
        names
    }

    /// The expression's value over a document, as JSON.
    pub(crate) fn eval(&self, document: &Value) -> Result<Json, String> {
        let value = self.0.eval(document.clone()).map_err(|error| describe(&error))?;
        to_json(&value)
    }
}

/// A document as templates see it: its columns are the variables.
pub(crate) fn document(row: &Map<String, Json>) -> Value {
    Value::from_pairs(row.iter().map(|(key, value)| (key.clone(), from_json(value))))
}

fn from_json(value: &Json) -> Value {
    match value {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(integer)) => Value::from(integer),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(from_json).collect(),
        Json::Object(map) => document(map),
    }
}

fn to_json(value: &Value) -> Result<Json, String> {
    Ok(match value.kind() {
        ValueKind::None => Json::Null,
        ValueKind::Bool => Json::Bool(value.is_true()),
        ValueKind::Number if value.is_integer() => match value.as_i64() {
            Some(integer) => Json::from(integer),
            None => u64::try_from(value.clone()).map(Json::from).map_err(|error| describe(&error))?,
        },
        ValueKind::Number => {
            let float = f64::try_from(value.clone()).map_err(|error| describe(&error))?;
            serde_json::Number::from_f64(float).map_or(Json::Null, Json::Number)
        }
        ValueKind::String => Json::String(value.as_str().unwrap_or_default().to_owned()),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter().map_err(|error| describe(&error))?;
            Json::Array(items.map(|item| to_json(&item)).collect::<Result<_, _>>()?)
        }
        ValueKind::Map => {
            let mut map = Map::new();
            for key in value.try_iter().map_err(|error| describe(&error))? {
                let item = value.get_item(&key).map_err(|error| describe(&error))?;
                map.insert(key.to_string(), to_json(&item)?);
            }
            Json::Object(map)
        }
        ValueKind::Undefined => return Err("the value is undefined".to_owned()),
        kind => return Err(format!("a {kind} is no value for a task")),
    })
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let mut syntax = SyntaxConfig::builder();
    syntax.keep_trailing_newline(true);
    // The default delimiters never conflict; a test holds the trailing newline.
    environment.set_syntax(syntax.build().unwrap_or_default());
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_debug(false);
    environment.set_formatter(|out, _, value| out.write_str(&python_str(value)).map_err(Error::from));
    environment.set_unknown_method_callback(python_methods);
    environment.add_function("range", range);
    environment.add_filter("strip", |text: &str| python::strip(text).to_owned());
    environment.add_filter("trim", |text: &str| python::strip(text).to_owned());
    environment.add_filter("capitalize", |text: &str| python::capitalize(text));
    environment.add_filter("regex_replace", regex_replace);
    environment.add_filter("wikihow", wikihow);
    environment
}

fn range(first: isize, end: Option<isize>, step: Option<isize>) -> Result<Value, Error> {
    let range = minijinja::functions::range(first, end, step)?;
    if range.len().is_none_or(|count| count > LONGEST_RANGE) {
        return Err(Error::new(ErrorKind::InvalidOperation, "range has too many elements"));
    }
    Ok(range)
}

/// `re.sub(pattern, replacement, text)`, the filter the reference adds to Jinja.
fn regex_replace(text: &str, pattern: &str, replacement: &str) -> Result<String, Error> {
    let failed = |message| Error::new(ErrorKind::InvalidOperation, message);
    python::Regex::new(pattern).map_err(failed)?.sub(replacement, text, 0).map_err(failed)
}

/// Removes the marks WikiHow articles left in HellaSwag: `strip()`, then ` [title]` to `. `, then
/// bracketed text, then one pass of two spaces to one. Not stripped again.
fn wikihow(text: &str) -> Result<String, Error> {
    let text = python::strip(text).replace(" [title]", ". ");
    Ok(regex_replace(&text, r"\[.*?\]", "")?.replace("  ", " "))
}

/// `str` methods with Python's results where minijinja's differ, and `list.index`; everything else is
/// `minijinja-contrib`'s.
fn python_methods(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let (Some(text), []) = (value.as_str(), args) {
        match method {
            "strip" => return Ok(python::strip(text).into()),
            "lstrip" => return Ok(python::lstrip(text).into()),
            "rstrip" => return Ok(python::rstrip(text).into()),
            "capitalize" => return Ok(python::capitalize(text).into()),
            "split" => return Ok(python::split_whitespace(text).collect()),
            _ => {}
        }
    }
    if let (ValueKind::Seq, "index", [wanted]) = (value.kind(), method, args) {
        return match value.try_iter()?.position(|item| item == *wanted) {
            Some(index) => Ok(Value::from(index)),
            None => Err(Error::new(ErrorKind::InvalidOperation, format!("{wanted} is not in the list"))),
        };
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// `str(value)` as Python prints it.
fn python_str(value: &Value) -> String {
    match value.kind() {
        ValueKind::String => value.as_str().unwrap_or_default().to_owned(),
        _ => python_repr(value),
    }
}

fn python_repr(value: &Value) -> String {
    let list = |open: &str, close: &str| {
        let items: Vec<String> =
            value.try_iter().map(|items| items.map(|item| python_repr(&item)).collect()).unwrap_or_default();
        format!("{open}{}{close}", items.join(", "))
    };
    match value.kind() {
        ValueKind::String => python::str_repr(value.as_str().unwrap_or_default()),
        ValueKind::Number if !value.is_integer() => {
            f64::try_from(value.clone()).map_or_else(|_| value.to_string(), python::float_repr)
        }
        ValueKind::Seq | ValueKind::Iterable => list("[", "]"),
        ValueKind::Map => {
            let items: Vec<String> = value
                .try_iter()
                .map(|keys| {
                    let item =
                        |key: &Value| value.get_item(key).map_or_else(|_| String::new(), |v| python_repr(&v));
                    keys.map(|key| format!("{}: {}", python_repr(&key), item(&key))).collect()
                })
                .unwrap_or_default();
            format!("{{{}}}", items.join(", "))
        }
        _ => value.to_string(),
    }
}

/// The error and its causes on one line.
fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Fails once a template has written more than [`MAX_OUTPUT_BYTES`].
struct Capped(Vec<u8>);

impl io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(io::Error::other(format!("the text is longer than {MAX_OUTPUT_BYTES} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(template: &str, row: Json) -> Result<String, String> {
        let Json::Object(row) = row else { panic!("a row is an object") };
        let mut templates = Templates::new();
        templates.add("prompt", template)?;
        templates.render("prompt", &document(&row))
    }

    #[test]
    fn renders_like_jinja2() {
        let row =
            json!({"q": "\u{1f} a \n", "n": 3, "f": 2.0, "none": null, "yes": true, "l": ["it's", 1, 0.5]});
        assert_eq!(
            render("{{q.strip()}}|{{n}}|{{f}}|{{none}}|{{yes}}\n", row.clone()).unwrap(),
            "a|3|2.0|None|True\n"
        );
        assert_eq!(render("{{l}}{{l.index(1)}}", row.clone()).unwrap(), "[\"it's\", 1, 0.5]1");
        assert_eq!(render("{{'<a>'}}{{['A','B'][n-2]}}", row.clone()).unwrap(), "<a>B");
        assert_eq!(render("{{ 'x' if nothing is defined else 'y' }}", row.clone()).unwrap(), "y");
        assert_eq!(render("{{ q|regex_replace('a', '[\\\\g<0>]')|trim }}", row).unwrap(), "[a]");
    }

    #[test]
    fn undefined_values_are_errors() {
        let error = render("{{question}}", json!({"q": 1})).unwrap_err();
        assert!(error.contains("undefined"), "{error}");
        assert!(render("{{q.nothing}}", json!({"q": {}})).is_err());
    }

    #[test]
    fn data_is_not_rendered() {
        assert_eq!(render("{{q}}", json!({"q": "{{ 7*7 }}{% raw %}"})).unwrap(), "{{ 7*7 }}{% raw %}");
    }

    #[test]
    fn wikihow_cleans_once() {
        let row = json!({"t": "  Roof [title] A  [step] b    c [x\ny] "});
        assert_eq!(render("{{t|wikihow}}", row).unwrap(), "Roof. A  b  c [x\ny]");
    }

    /// How soon a template ends is counted in instructions, [`FUEL`] of them, and not by a clock.
    #[test]
    fn promise_27_hostile_templates_end_in_errors() {
        for (template, why) in [
            (
                "{% for a in range(10000) %}{% for b in range(10000) %}x{% endfor %}{% endfor %}",
                "ran out of fuel",
            ),
            ("{% for a in range(10000) %}{% set b = range(10001)|list %}{% endfor %}", "too many elements"),
            ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion limit"),
            ("{{ 'x' * 90000000 }}", "longer than"),
            ("{% include 'other' %}", "template not found"),
            ("{{ 'x' * 900000000 }}", "too large"),
        ] {
            let error = render(template, json!({})).expect_err(template);
            assert!(error.contains(why), "{template}: {error}");
        }
    }

    #[test]
    fn formulas_give_json() {
        let row = json!({"endings": [" a [x] b", "c"], "label": "2", "m": {"k": 1}});
        let Json::Object(row) = row else { panic!() };
        let row = document(&row);
        let eval = |source: &str| Formula::new(source).unwrap().eval(&row);
        assert_eq!(eval("endings|map('wikihow')|list"), Ok(json!(["a b", "c"])));
        assert_eq!(eval("label|int"), Ok(json!(2)));
        assert_eq!(eval("m"), Ok(json!({"k": 1})));
        assert!(eval("nope").is_err());
        assert!(Formula::new("1 +").is_err());
    }
}
