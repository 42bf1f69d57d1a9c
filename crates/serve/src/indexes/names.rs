//! Whose an index is stands in the name that it has in the store.

use evalign_core::{NAME_FORM, Tenant, is_name};

use crate::error::{ApiError, ApiResult, Code};

/// Between an index's name and its tenant, in the store. Names that clients give do not hold it.
const OF: &str = "..";

/// A tenant's index by the name that it has in the store. The command line's are the default tenant's.
pub(super) fn stored_name(tenant: &Tenant, id: &str) -> String {
    if *tenant == Tenant::default() { id.to_owned() } else { format!("{id}{OF}{tenant}") }
}

/// The other way: the client's name of a stored index, where it is this tenant's.
pub(super) fn own_name<'a>(tenant: &Tenant, stored: &'a str) -> Option<&'a str> {
    match stored.split_once(OF) {
        Some((id, of)) => (of == tenant.as_str()).then_some(id),
        None => (*tenant == Tenant::default()).then_some(stored),
    }
}

pub(super) fn check_name(tenant: &Tenant, name: &str) -> ApiResult<()> {
    let wrong = |message: String| Err(ApiError::new(Code::InvalidRequest, message).about("name"));
    if !is_name(name) {
        return wrong(format!("`name` is not a name: {NAME_FORM}"));
    }
    if name.contains(OF) || name.ends_with('.') {
        return wrong(format!("`name` must not hold `{OF}`, nor end in a dot"));
    }
    if !is_name(&stored_name(tenant, name)) {
        return wrong("`name` is too long".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever a client writes, what is taken for a name is one part of a path and leads nowhere else, also with
        /// its tenant.
        #[test]
        fn promise_26_what_is_a_name_is_one_part_of_a_path(name in "([a-z0-9._/\\\\-]|\\PC){0,70}") {
            if check_name(&"acme".parse().unwrap(), &name).is_ok() {
                for text in [&*name, &*stored_name(&"acme".parse().unwrap(), &name)] {
                    let parts: Vec<Component<'_>> = Path::new(text).components().collect();
                    prop_assert_eq!(parts, [Component::Normal(text.as_ref())]);
                    prop_assert!(text.len() <= 64 && text.is_ascii() && !text.contains(['/', '\\', ':', '%']));
                }
            }
        }
    }

    #[test]
    fn promise_24_an_index_of_one_tenant_is_no_other_tenants() {
        let (own, acme, dotted): (Tenant, Tenant, Tenant) =
            (Tenant::default(), "acme".parse().unwrap(), "b..acme".parse().unwrap());
        for tenant in [&own, &acme, &dotted] {
            let stored = stored_name(tenant, "docs");
            for other in [&own, &acme, &dotted] {
                let expected = (tenant == other).then_some("docs");
                assert_eq!(own_name(other, &stored), expected, "{stored} as {other}");
            }
        }
        for bad in ["docs..acme", "docs.", "../docs", "Docs", "", &"x".repeat(62)] {
            assert!(check_name(&acme, bad).is_err(), "{bad}");
        }
    }
}
