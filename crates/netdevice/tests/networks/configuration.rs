//! The configuration in a definition.

use netdevice::networks::configuration_text;

#[test]
fn the_name_is_added_only_where_it_is_missing() {
    let cases = [
        (r#"{"type":"macvlan", "name":"n"}"#, r#"{"type":"macvlan", "name":"n"}"#),
        (r#"{"name":1}"#, r#"{"name":1}"#),
        (
            " {\n\"z\":1.50,\"a\":12345678901234567890123}",
            "{\"name\":\"nad\",\n\"z\":1.50,\"a\":12345678901234567890123}",
        ),
        ("{ }", "{\"name\":\"nad\" }"),
        (r#"{"type":"macvlan","name":""}"#, r#"{"name":"nad","type":"macvlan"}"#),
        (r#"{"name":null,"plugins":[{"name":"x"}]}"#, r#"{"name":"nad","plugins":[{"name":"x"}]}"#),
    ];
    for (config, text) in cases {
        assert_eq!(configuration_text("nad", config).unwrap().as_deref(), Some(text), "{config}");
    }
}

#[test]
fn an_empty_configuration_is_that_of_a_file() {
    for config in ["", " \n"] {
        assert_eq!(configuration_text("nad", config), Ok(None));
    }
}

#[test]
fn what_is_no_object_is_refused() {
    let refused = |config| configuration_text("nad", config).unwrap_err().to_string();
    assert_eq!(
        refused("{\"a\":\n1,}"),
        "spec.config of the NetworkAttachmentDefinition \"nad\" is invalid JSON at line 2, column 3"
    );
    assert_eq!(refused("[]"), "spec.config of the NetworkAttachmentDefinition \"nad\" must be a JSON object");
}
