use serde::Deserialize;

use crate::load::DocumentKind;
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
    /// such a condition would find nothing and say nothing.
    ///
    /// # Errors
    /// [`RagError::Invalid`] with the fields that there are.
    pub fn filter(text: &str) -> Result<Filter, RagError> {
        let mut filter: Filter = text.parse()?;
        check_kinds(text, &filter)?;
        for condition in filter.must.iter_mut().chain(&mut filter.must_not) {
            let key = match condition {
                Condition::Equals { key, .. }
                | Condition::AnyOf { key, .. }
                | Condition::Range { key, .. }
                | Condition::Exists { key } => key,
                Condition::Ids(_) => continue,
            };
            let known = FIELDS.iter().find(|(typed, _)| typed == key);
            let (_, stored) = known.ok_or_else(|| {
                RagError::invalid(
                    format!("filter `{}`", text.escape_debug()),
                    format!("chunks have no field `{}`", key.escape_debug()),
                    format!("they have {}", FIELDS.map(|(typed, _)| typed).join(", ")),
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
        assert_eq!(suggested.len(), 4, "{hint}");
        for condition in suggested {
            Chunk::filter(condition).unwrap();
        }
    }
}
