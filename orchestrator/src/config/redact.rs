//! What of an address may be shown: everything but its secrets.

/// Stands for what is not shown.
pub(crate) const HIDDEN: &str = "***";

/// An address without its password and its query, whatever characters the password holds. Something that is no address is hidden as a whole.
pub fn uri(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return HIDDEN.into() };
    // The last `@`: a password with one in it is not percent-encoded as it should be, and still is a secret.
    let (user, place) = match rest.rsplit_once('@') {
        Some((credentials, place)) => (credentials.split_once(':'), place),
        None => (None, rest),
    };
    let place = match place.split_once('?') {
        Some((place, _)) => format!("{place}?{HIDDEN}"),
        None => place.into(),
    };
    match (user, rest.contains('@')) {
        (Some((user, _)), _) => format!("{scheme}://{user}:{HIDDEN}@{place}"),
        // A user without a password, or a token in its place.
        (None, true) => format!("{scheme}://{HIDDEN}@{place}"),
        (None, false) => format!("{scheme}://{place}"),
    }
}

/// Addresses of Kafka brokers; hidden as a whole where something that may be a user and a password stands in them.
pub(super) fn kafka(text: &str) -> String {
    if text.contains('@') { HIDDEN.into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_secrets() {
        for (address, shown) in [
            ("amqp://ann:s3cret@broker:5672/%2f", "amqp://ann:***@broker:5672/%2f"),
            ("amqp://ann:s3/c@r:et@broker/shop", "amqp://ann:***@broker/shop"),
            ("amqp://s3cret@broker", "amqp://***@broker"),
            ("amqp://broker/x?password=s3cret", "amqp://broker/x?***"),
            ("amqp://broker:5672", "amqp://broker:5672"),
            ("s3cret", "***"),
        ] {
            assert_eq!(uri(address), shown);
            assert!(!uri(address).contains("s3cret"));
        }
    }
}
