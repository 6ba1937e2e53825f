//! TLS to the server: what an address says of it, and what a connection that came to nothing for it means.
//!
//! ```text
//! address ─► sslmode, sslrootcert, sslcert, sslkey taken out, as the client's parser knows but some of them ─► PostgresTls
//!            └─ the rest ─► the client's parser
//! ```
//!
//! Where TLS is asked for, whoever asks, the server's certificate is verified with its name: by the authorities of the file, or by
//! those of the system. So `require` and `verify-ca` are as strict as `verify-full`.

use super::address::AddressError;
use dirigent_connectors::tls::{ClientTls, Terms};
use percent_encoding::percent_decode_str;
use std::{error::Error as _, ops::Range};
use tokio_postgres::Error;
use tokio_postgres_rustls::MakeRustlsConnect;

/// TLS to PostgreSQL: whom to trust, and what to show where the server wants a certificate of its clients.
///
/// The server's certificate is always verified, its name included. The files are read for each connection, so what is renewed in them
/// counts from the next one on.
pub type PostgresTls = ClientTls;

/// What the settings are called in an address.
pub(super) const TERMS: Terms =
    Terms { ca: "sslrootcert", certificate: "sslcert", key: "sslkey", peer: "server" };

/// What servers of release 17 want to hear in a handshake, and others pass over.
const PROTOCOL: &[u8] = b"postgresql";

/// The value of `sslrootcert` that means the authorities of the system.
const OF_SYSTEM: &str = "system";

/// What the client says of a server that answers TLS with no.
const NO_TLS_THERE: &str = "server does not support TLS";

/// What an address says of TLS.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    mode: Option<String>,
    tls: PostgresTls,
}

impl Said {
    /// Takes it out of an address, of either form. What is left is for the client's own parser, which finds what is wrong with it.
    pub(super) fn take_from(address: &str) -> (Self, String) {
        let mut said = Self::default();
        let is_url = ["postgres://", "postgresql://"].iter().any(|it| address.starts_with(it));
        let rest = if is_url { said.take_from_url(address) } else { said.take_from_words(address) };
        (said, rest)
    }

    /// How the server is to be reached: by TLS, or plainly.
    pub(super) fn decided(self) -> Result<Option<PostgresTls>, AddressError> {
        let is_tls = match self.mode.as_deref() {
            None | Some("disable" | "allow" | "prefer") => false,
            Some("require" | "verify-ca" | "verify-full") => true,
            Some(_) => return Err(AddressError::SslMode),
        };
        let Self { tls, .. } = self;
        let files =
            [(&tls.ca, TERMS.ca), (&tls.certificate, TERMS.certificate), (&tls.key, TERMS.key)];
        let unasked = files.iter().find(|(file, _)| file.is_some()).map(|(_, setting)| *setting);
        match unasked {
            Some(setting) if !is_tls => Err(AddressError::TlsUnasked(setting)),
            _ => Ok(is_tls.then_some(tls)),
        }
    }

    fn take_from_url(&mut self, address: &str) -> String {
        // A password in front may hold anything but `@`.
        let behind_user = address.find('@').map_or(0, |at| at + 1);
        let Some(begin) = address[behind_user..].find('?').map(|at| behind_user + at) else {
            return address.to_owned();
        };
        let (place, parameters) = (&address[..begin], &address[begin + 1..]);
        let is_left = |parameter: &&str| {
            let Some((name, value)) = parameter.split_once('=') else { return true };
            let decoded = |text| percent_decode_str(text).decode_utf8();
            match (decoded(name), decoded(value)) {
                (Ok(name), Ok(value)) => !self.takes(&name, &value),
                _ => true,
            }
        };
        let left: Vec<_> = parameters.split('&').filter(is_left).collect();
        if left.is_empty() { place.to_owned() } else { format!("{place}?{}", left.join("&")) }
    }

    fn take_from_words(&mut self, address: &str) -> String {
        let (mut left, mut at) = (String::new(), 0);
        for (name, value, place) in words(address) {
            left.push_str(&address[at..place.start]);
            if !self.takes(name, &value) {
                left.push_str(&address[place.clone()]);
            }
            at = place.end;
        }
        left + &address[at..]
    }

    /// Whether it is one of TLS. An empty one counts as not said.
    fn takes(&mut self, name: &str, value: &str) -> bool {
        let said = Some(value).filter(|value| !value.is_empty());
        match name {
            "sslmode" => self.mode = said.map(str::to_owned),
            "sslrootcert" => self.tls.ca = said.filter(|file| *file != OF_SYSTEM).map(Into::into),
            "sslcert" => self.tls.certificate = said.map(Into::into),
            "sslkey" => self.tls.key = said.map(Into::into),
            _ => return false,
        }
        true
    }
}

/// What `name=value name='value'` says, each with its place. Ends where that is not kept to.
fn words(text: &str) -> Vec<(&str, String, Range<usize>)> {
    let (mut found, mut at) = (Vec::new(), 0);
    loop {
        let begin = text.len() - text[at..].trim_start().len();
        let Some((name, behind)) = text[begin..].split_once('=') else { return found };
        let value_from = text.len() - behind.trim_start().len();
        let is_quoted = text[value_from..].starts_with('\'');
        let from = value_from + usize::from(is_quoted);
        let (mut value, mut end) = (String::new(), text.len());
        let mut letters = text[from..].char_indices();
        while let Some((index, letter)) = letters.next() {
            match letter {
                '\'' if is_quoted => {
                    end = from + index + 1;
                    break;
                }
                letter if !is_quoted && letter.is_whitespace() => {
                    end = from + index;
                    break;
                }
                '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
                letter => value.push(letter),
            }
        }
        found.push((name.trim_end(), value, begin..end));
        at = end;
    }
}

/// Reads the files. Blocks.
pub(super) fn connector(
    tls: &PostgresTls,
) -> Result<MakeRustlsConnect, dirigent_connectors::tls::Flaw> {
    let mut client = tls.client(&TERMS)?;
    client.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(MakeRustlsConnect::new(client))
}

/// What is to be said of a server that knows its clients by their certificates.
pub(super) fn wants_certificate() -> String {
    TERMS.wants_certificate()
}

/// What a person can do where a connection came to nothing for TLS. `None` if it may go well the next time, or TLS is not the reason.
pub(super) fn advice(tls: &PostgresTls, error: &Error) -> Option<String> {
    let cause = error.source()?;
    if cause.to_string() == NO_TLS_THERE {
        return Some(
            "the server speaks no TLS: switch it on there (`ssl = on`, `ssl_cert_file`, `ssl_key_file`), or say sslmode=disable where \
             the network can be trusted"
                .into(),
        );
    }
    tls.why(cause, &TERMS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(address: &str) -> Option<PostgresTls> {
        Said::take_from(address).0.decided().unwrap()
    }

    #[test]
    fn what_an_address_says_of_tls_is_taken_out_of_it_in_either_form() {
        let tls = PostgresTls {
            ca: Some("/etc/a b/ca.pem".into()),
            certificate: Some("c.pem".into()),
            key: Some("k.pem".into()),
        };
        for (address, rest) in [
            (
                "postgres://me:s?sslmode=x@db/shop?sslmode=verify-full&connect_timeout=2&sslrootcert=%2Fetc%2Fa%20b/ca.pem&sslcert=c.pem&sslkey=k.pem",
                "postgres://me:s?sslmode=x@db/shop?connect_timeout=2",
            ),
            (
                "host=db sslmode = verify-ca  sslrootcert='/etc/a b/ca.pem' user=me password='a sslmode=x' sslcert=c.pem sslkey=k.pem",
                "host=db    user=me password='a sslmode=x'  ",
            ),
        ] {
            let (said, left) = Said::take_from(address);
            assert_eq!(left, rest);
            assert_eq!(said.decided().unwrap(), Some(tls.clone()), "{address}");
        }
        let left = Said::take_from("postgresql://me@db/shop?sslmode=require").1;
        assert_eq!(left, "postgresql://me@db/shop");
    }

    #[test]
    fn tls_is_what_its_mode_says_and_files_without_it_are_not_passed_over() {
        let url = |said: &str| format!("postgres://me@db/shop?{said}");
        for plain in ["", "sslmode=disable", "sslmode=allow", "sslmode=prefer", "sslrootcert="] {
            assert_eq!(decided(&url(plain)), None, "{plain}");
        }
        for strict in
            ["sslmode=require", "sslmode=verify-ca", "sslmode=verify-full&sslrootcert=system"]
        {
            assert_eq!(decided(&url(strict)), Some(PostgresTls::default()), "{strict}");
        }
        let refused = |said: &str| Said::take_from(&url(said)).0.decided().unwrap_err().to_string();
        assert!(refused("sslmode=full").contains("verify-full"));
        let unasked = refused("sslrootcert=ca.pem");
        assert!(
            unasked.contains("`sslrootcert`") && unasked.contains("sslmode=require"),
            "{unasked}"
        );
    }

    #[test]
    fn an_address_in_words_that_is_none_is_left_as_it_is() {
        for odd in ["", "  ", "host", "host=", "host='db", "a=\\", "sslmodes=x = y"] {
            assert_eq!(Said::take_from(odd).1, odd);
        }
    }
}
