//! A client library that nobody wrote for this server.

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::types::chat::{
    ChatCompletionRequestUserMessageArgs, ChatCompletionStreamOptions, CreateChatCompletionRequestArgs,
};
use async_openai::types::embeddings::CreateEmbeddingRequestArgs;
use futures::StreamExt as _;

use super::*;

#[tokio::test]
async fn async_openai_reads_answers_streams_embeddings_and_errors() {
    let provider = Provider::fast().await;
    let client = Client::with_config(OpenAIConfig::new().with_api_base(provider.server.url()).with_api_key("any"));
    let request = |model: &str| {
        let message = ChatCompletionRequestUserMessageArgs::default().content("Why is the sky blue?").build().unwrap();
        CreateChatCompletionRequestArgs::default().model(model).messages([message.into()]).build().unwrap()
    };
    let answer = client.chat().create(request("sim-large")).await.unwrap();
    let whole = answer.choices[0].message.content.clone().unwrap();
    assert_eq!(u64::from(answer.usage.unwrap().completion_tokens), tiktoken(&whole));

    let mut streamed = request("sim-large");
    streamed.stream = Some(true);
    streamed.stream_options =
        Some(ChatCompletionStreamOptions { include_usage: Some(true), include_obfuscation: None });
    let mut stream = client.chat().create_stream(streamed).await.unwrap();
    let (mut text, mut usage) = (String::new(), None);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.unwrap();
        usage = chunk.usage.or(usage);
        text.extend(chunk.choices.into_iter().filter_map(|choice| choice.delta.content));
    }
    assert_eq!(text, whole);
    assert_eq!(u64::from(usage.unwrap().completion_tokens), tiktoken(&whole));

    let request_embedding = CreateEmbeddingRequestArgs::default().model("sim-embed").input("sky").build().unwrap();
    let embeddings = client.embeddings().create(request_embedding).await.unwrap();
    assert_eq!(embeddings.data[0].embedding.len(), 384);

    let error = client.chat().create(request("gpt-9")).await.unwrap_err().to_string();
    assert!(error.contains("does not exist"), "{error}");
}
