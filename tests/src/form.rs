//! Uploads, as browsers and OpenAI's clients write them.

/// The content type and the body of a form that uploads a file.
#[must_use]
pub fn form_of(purpose: &str, content: &str) -> (String, String) {
    const BOUNDARY: &str = "a-boundary-of-the-test";
    let head = "content-disposition: form-data; name";
    let form = format!(
        "--{BOUNDARY}\r\n{head}=\"purpose\"\r\n\r\n{purpose}\r\n--{BOUNDARY}\r\n{head}=\"file\"; filename=\"in.jsonl\"\r\n\r\n\
         {content}\r\n--{BOUNDARY}--\r\n"
    );
    (format!("multipart/form-data; boundary={BOUNDARY}"), form)
}
