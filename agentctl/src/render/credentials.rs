//! Logins as text for people.

use model::{Credential, ServiceName};

use super::{Colour, Table, Tone};

/// A table, or a word that there is nothing.
pub(crate) fn render(service: &ServiceName, credentials: &[Credential], colour: Colour) -> String {
    if credentials.is_empty() {
        return format!("No login was generated for {service}.\n");
    }
    let mut table = Table::default();
    for credential in credentials {
        table.row([&credential.label, &credential.value].map(|text| (Tone::Plain, text.clone())));
    }
    let mut text = String::new();
    table.write(colour, &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_login_is_shown() {
        let service = "nextcloud".parse().unwrap();
        let login = [("user", "admin"), ("password", "Quux")]
            .map(|(label, value)| Credential { label: label.into(), value: value.into() });
        let text = render(&service, &login, Colour::when(false));
        assert!(["user", "admin", "password", "Quux"].iter().all(|word| text.contains(word)), "{text}");
        assert!(render(&service, &[], Colour::when(false)).contains("No login"));
    }
}
