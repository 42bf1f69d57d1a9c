use super::*;

#[test]
fn every_template_compiles() {
    for (name, _) in TEMPLATES_OF_PAGES {
        assert!(templates().get_template(name).is_ok(), "{name}");
    }
}

/// Promise 32: what models and clients write is text on our pages.
#[test]
fn promise_32_markup_of_others_is_text() {
    let content =
        context! { title => "<script>x</script>", status => 404, message => "\"><img src=x onerror=y>" };
    let rendered = templates().get_template("error").unwrap().render(context! {
        csrf => None::<String>, tenant => None::<String>, ..content
    });
    let text = rendered.unwrap();
    assert!(!text.contains("<script>x") && !text.contains("<img"), "{text}");
    assert!(text.contains("&lt;script&gt;"));
}

#[test]
fn pages_hold_no_scripts_or_styles_of_their_own() {
    for (name, source) in TEMPLATES_OF_PAGES {
        for forbidden in ["<style", " style=", " onclick", "javascript:", "http://", "https://"] {
            assert!(!source.contains(forbidden), "{name}: {forbidden}");
        }
    }
}
