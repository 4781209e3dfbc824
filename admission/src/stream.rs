//! Whether the client reads its answer while it is written.

use millrace_schemas::Ended;

use crate::body::EditableBody;
use crate::checks::wrong_type;
use crate::json;

/// How an answer is to be streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// Whether its last chunk is to have the usage.
    pub with_usage: bool,
}

impl Stream {
    /// What a request asks for; `None` for an answer in one piece.
    ///
    /// # Errors
    /// When `stream` or `stream_options` are not what they can be.
    pub fn read(body: &EditableBody) -> Result<Option<Self>, Ended> {
        const OPTIONS: &str = "stream_options";
        let options = body.get(OPTIONS).filter(|raw| *raw != "null");
        match (body.get("stream"), options) {
            (None | Some("false" | "null"), None) => Ok(None),
            (None | Some("false" | "null"), Some(_)) => {
                let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
                Err(Ended::invalid("invalid_value", Some(OPTIONS), message))
            }
            (Some("true"), None) => Ok(Some(Self { with_usage: false })),
            (Some("true"), Some(raw)) => {
                let options = EditableBody::parse(raw.to_owned())
                    .ok_or_else(|| wrong_type(OPTIONS, "an object", json::kind(raw)))?;
                match options.get("include_usage") {
                    None | Some("false" | "null") => Ok(Some(Self { with_usage: false })),
                    Some("true") => Ok(Some(Self { with_usage: true })),
                    Some(other) => Err(wrong_type("stream_options.include_usage", "a boolean", json::kind(other))),
                }
            }
            (Some(other), _) => Err(wrong_type("stream", "a boolean", json::kind(other))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: Result<Option<bool>, &str>) {
        let read = Stream::read(&EditableBody::parse(body.to_owned()).expect("an object"));
        let read =
            read.map(|stream| stream.map(|stream| stream.with_usage)).map_err(|ended| ended.param.unwrap_or_default());
        assert_eq!(read, expected.map_err(str::to_owned), "{body}");
    }

    #[test]
    fn what_clients_ask_for() {
        check("{}", Ok(None));
        check(r#"{"stream":null,"stream_options":null}"#, Ok(None));
        check(r#"{"stream":true}"#, Ok(Some(false)));
        check(r#"{"stream":true,"stream_options":{"next_month":1}}"#, Ok(Some(false)));
        check(r#"{"stream":true,"stream_options":{"include_usage":true}}"#, Ok(Some(true)));
        check(r#"{"stream":1}"#, Err("stream"));
        check(r#"{"stream":true,"stream_options":[]}"#, Err("stream_options"));
        check(r#"{"stream":true,"stream_options":{"include_usage":1}}"#, Err("stream_options.include_usage"));
        check(r#"{"stream":false,"stream_options":{"include_usage":true}}"#, Err("stream_options"));
    }
}
