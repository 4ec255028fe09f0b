//! Single values as text: one parser with one wording of errors for documents, requests and command lines.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use packet::MacAddr;

/// A value that is text in documents and in the API.
pub trait Text: Sized + fmt::Display {
    /// Parses, or says what was expected.
    ///
    /// # Errors
    /// A sentence that quotes the text.
    fn parse_text(text: &str) -> Result<Self, String>;
}

impl Text for MacAddr {
    fn parse_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|e: packet::InvalidMac| e.to_string())
    }
}

impl Text for IpAddr {
    fn parse_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| {
            format!("`{text}` is not an IP address: expected a form such as 10.1.1.2 or fd00:1::2")
        })
    }
}

impl Text for IpNet {
    fn parse_text(text: &str) -> Result<Self, String> {
        IpNet::from_str(text).map_err(|_| {
            format!("`{text}` is not a CIDR: expected address/length such as 10.1.1.0/24 or fd00:1::/64")
        })
    }
}

/// A CIDR without host bits.
///
/// # Errors
/// A sentence that quotes the text, and gives the prefix that was probably meant.
pub fn parse_prefix(text: &str) -> Result<IpNet, String> {
    let net = IpNet::parse_text(text)?;
    if net.trunc() == net {
        Ok(net)
    } else {
        Err(format!("`{text}` has host bits set: did you mean {}?", net.trunc()))
    }
}

/// `#[serde(with)]` for one [`Text`].
pub mod one {
    use super::Text;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    /// Writes the text.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<T: Text, S: Serializer>(v: &T, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(v)
    }

    /// Parses the text.
    ///
    /// # Errors
    /// Not a string, or [`Text::parse_text`].
    pub fn deserialize<'de, T: Text, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
        T::parse_text(&String::deserialize(d)?).map_err(D::Error::custom)
    }
}

/// `#[serde(with)]` for an optional [`Text`].
pub mod opt {
    use super::Text;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    /// Writes the text, or null.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<T: Text, S: Serializer>(v: &Option<T>, s: S) -> Result<S::Ok, S::Error> {
        match v {
            Some(v) => s.collect_str(v),
            None => s.serialize_none(),
        }
    }

    /// Parses the text; null is `None`.
    ///
    /// # Errors
    /// Not a string, or [`Text::parse_text`].
    pub fn deserialize<'de, T: Text, D: Deserializer<'de>>(d: D) -> Result<Option<T>, D::Error> {
        let text = Option::<String>::deserialize(d)?;
        text.map(|t| T::parse_text(&t)).transpose().map_err(D::Error::custom)
    }
}

/// `#[serde(with)]` for a list of [`Text`].
pub mod many {
    use super::Text;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    /// Writes an array of texts.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<T: Text, S: Serializer>(v: &[T], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(v.iter().map(ToString::to_string))
    }

    /// Parses an array of texts.
    ///
    /// # Errors
    /// Not an array of strings, or [`Text::parse_text`].
    pub fn deserialize<'de, T: Text, D: Deserializer<'de>>(d: D) -> Result<Vec<T>, D::Error> {
        let texts = Vec::<String>::deserialize(d)?;
        texts.iter().map(|t| T::parse_text(t)).collect::<Result<_, _>>().map_err(D::Error::custom)
    }
}

/// `#[serde(deserialize_with)]` for a number whose zero means "default", as it does in the API.
///
/// # Errors
/// Not a number of this type.
pub fn nonzero<'de, T, D>(d: D) -> Result<Option<T>, D::Error>
where
    T: serde::Deserialize<'de> + Default + PartialEq,
    D: serde::Deserializer<'de>,
{
    Ok(<Option<T> as serde::Deserialize>::deserialize(d)?.filter(|v| *v != T::default()))
}

/// `#[serde(with)]` for a VNI, which is a number.
pub mod vni {
    use packet::Vni;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    /// Writes the number.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(v: &Vni, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u32(v.get())
    }

    /// Checks the range.
    ///
    /// # Errors
    /// Not a number, or out of range.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vni, D::Error> {
        Vni::new(u32::deserialize(d)?).map_err(D::Error::custom)
    }
}
