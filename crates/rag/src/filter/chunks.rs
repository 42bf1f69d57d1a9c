use serde::Deserialize;

use super::own;
use super::parse::Typed;
use crate::load::DocumentKind;
use crate::metadata::{TYPED_PREFIX, name_of};
use crate::{Chunk, Condition, Filter, RagError};

/// Fields of a chunk as they are typed and as they are stored.
const FIELDS: [(&str, &str); 7] = [
    ("document", "document"),
    ("kind", "metadata.kind"),
    ("page", "page"),
    ("section", "section"),
    ("revision", "revision"),
    ("start_byte", "start_byte"),
    ("end_byte", "end_byte"),
];

impl Chunk {
    /// A condition on chunks as it is typed (see [`Filter`]'s `FromStr`). Fields that no chunk has are refused:
    /// such a condition would find nothing and say nothing. `meta.NAME` is metadata of the documents' own (columns, front
    /// matter), of which the index knows what there is: [`crate::Lookup::hits`] and [`crate::answer::Answerer`] refuse
    /// what there is not.
    ///
    /// # Errors
    /// [`RagError::Invalid`] with the fields that there are.
    pub fn filter(text: &str) -> Result<Filter, RagError> {
        let typed = Typed::of(text)?;
        if let Some(name) = name_of(typed.key) {
            return own::filter(&typed, name);
        }
        let mut filter: Filter = text.parse()?;
        check_kinds(text, &filter)?;
        for condition in filter.must.iter_mut().chain(&mut filter.must_not) {
            let key = match condition {
                Condition::Equals { key, .. }
                | Condition::AnyOf { key, .. }
                | Condition::Range { key, .. }
                | Condition::Exists { key } => key,
                Condition::Ids(_) | Condition::Either(_) => continue,
            };
            let known = FIELDS.iter().find(|(typed, _)| typed == key);
            let (_, stored) = known.ok_or_else(|| {
                RagError::invalid(
                    format!("filter `{}`", text.escape_debug()),
                    format!("chunks have no field `{}`", key.escape_debug()),
                    format!(
                        "they have {}; what documents carry themselves, in columns or front matter, is {TYPED_PREFIX}NAME",
                        FIELDS.map(|(typed, _)| typed).join(", ")
                    ),
                )
            })?;
            (*stored).clone_into(key);
        }
        Ok(filter)
    }

    /// Several of these, all of which hold.
    ///
    /// # Errors
    /// As [`Chunk::filter`].
    pub fn filters(typed: &[String]) -> Result<Filter, RagError> {
        typed.iter().try_fold(Filter::default(), |filter, condition| Ok(filter.and(Self::filter(condition)?)))
    }
}

/// A misspelt kind would find nothing and say nothing.
fn check_kinds(text: &str, filter: &Filter) -> Result<(), RagError> {
    let values = filter.must.iter().chain(&filter.must_not).flat_map(|condition| match condition {
        Condition::Equals { key, value } if key == "kind" => std::slice::from_ref(value),
        Condition::AnyOf { key, values } if key == "kind" => values,
        _ => &[],
    });
    match values.into_iter().find(|value| DocumentKind::deserialize(*value).is_err()) {
        None => Ok(()),
        Some(unknown) => Err(RagError::invalid(
            format!("filter `{}`", text.escape_debug()),
            format!("no document is of the kind {unknown}"),
            format!("kinds are {}", DocumentKind::ALL.map(DocumentKind::name).join(", ")),
        )),
    }
}

#[cfg(test)]
mod tests {
    use evalign_core::Hint;

    use super::*;

    #[test]
    fn fields_are_those_of_chunks() {
        assert_eq!(Chunk::filter("kind!=pdf").unwrap(), "metadata.kind!=pdf".parse().unwrap());
        assert_eq!(Chunk::filter("page>=3").unwrap(), "page>=3".parse().unwrap());
        let error = Chunk::filter("author=Li").unwrap_err();
        assert!(error.to_string().contains("no field `author`"), "{error}");
        assert!(error.hint().unwrap().contains("document, kind, page"), "{error}");
        let error = Chunk::filter("kind=pdf,Markdown").unwrap_err();
        assert!(error.to_string().contains("\"Markdown\""), "{error}");
        assert!(error.hint().unwrap().contains("markdown, html"), "{error}");
    }

    #[test]
    fn what_a_hint_suggests_is_accepted() {
        let hint = Chunk::filter("kind~x").unwrap_err().hint().unwrap();
        let suggested: Vec<&str> = hint.split('`').skip(1).step_by(2).collect();
        assert_eq!(suggested.len(), 5, "{hint}");
        for condition in suggested {
            Chunk::filter(condition).unwrap();
        }
    }
}
