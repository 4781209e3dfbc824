//! A file of keys: `name = key` on each line, between comments and empty lines.

use std::collections::BTreeMap;

use millrace_config::Secret;
use reqwest::header::HeaderValue;

/// No file of keys is longer, bytes.
pub(crate) const LONGEST: u64 = 256 << 10;

/// Keys by their names.
pub(crate) type Named = BTreeMap<String, Secret>;

/// Reads the text of a file. What is wrong is told by the number of its line, never by what it says.
pub(crate) fn parse(text: &str) -> Result<Named, String> {
    let mut keys = Named::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| Err(format!("line {number} {what}"));
        let Some((name, key)) = line.split_once('=') else { return wrong("is not `name = key`") };
        let (name, key) = (name.trim(), key.trim());
        if !millrace_config::is_provider_key_name(name) {
            return wrong("has no name of at most 64 letters, digits, dots, hyphens and underscores");
        }
        if !is_key(key) {
            return wrong("has no key of visible ASCII characters after its name");
        }
        if keys.insert(name.to_owned(), Secret::from(key)).is_some() {
            return wrong("has a name that another line has");
        }
    }
    if keys.is_empty() { Err("it has no line `name = key`".to_owned()) } else { Ok(keys) }
}

fn is_key(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic()) && HeaderValue::from_str(key).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_names_and_keys() {
        let check = |text: &str, expected: Result<&[(&str, &str)], &str>| {
            let read = parse(text);
            assert!(!format!("{read:?}").contains("sk-"), "{read:?}");
            let named = read.map(|keys| keys.into_iter().map(|(n, k)| (n, k.expose().to_owned())).collect::<Vec<_>>());
            let expected = expected.map(|keys| keys.iter().map(|(n, k)| ((*n).to_owned(), (*k).to_owned())).collect());
            assert_eq!(named, expected.map_err(str::to_owned), "{text:?}");
        };
        check("# ours\n\n main = sk-1\r\nteam-2=sk-2==\n", Ok(&[("main", "sk-1"), ("team-2", "sk-2==")]));
        check("", Err("it has no line `name = key`"));
        check("main = sk-1\nsk-2", Err("line 2 is not `name = key`"));
        check("main =", Err("line 1 has no key of visible ASCII characters after its name"));
        check("main = sk-1 sk-2", Err("line 1 has no key of visible ASCII characters after its name"));
        check("a = sk-1\na = sk-2", Err("line 2 has a name that another line has"));
        check("a b = sk-1", Err("line 1 has no name of at most 64 letters, digits, dots, hyphens and underscores"));
    }
}
