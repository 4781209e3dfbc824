//! The Apicurio registry, keeping its schemas in a file so that a restart forgets none.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::parts::APICURIO;
use crate::server::{Launch, write_file};
use crate::wire::Probe;

/// The root of the API that Confluent's clients speak.
pub(crate) const API: &str = "/apis/ccompat/v7";

/// How to run the registry.
///
/// # Errors
/// When Apicurio was not fetched or its folder cannot be made.
pub(crate) fn launch(folder: &Path, port: u16) -> Result<Launch> {
    let part = APICURIO.locate()?;
    let jar = std::fs::read_dir(&part)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.to_string_lossy().ends_with("-runner.jar"))
        .with_context(|| {
            format!("{} has no -runner.jar: remove that folder and run tests/stack/fetch.sh apicurio", part.display())
        })?;
    write_file(folder, "README", "the schemas are in schemas.mv.db (H2)\n")?;
    let run = [
        "-Xmx512m".to_owned(),
        "-XX:+ExitOnOutOfMemoryError".to_owned(),
        format!("-Dquarkus.http.port={port}"),
        "-Dquarkus.http.host=127.0.0.1".to_owned(),
        "-Dquarkus.log.level=WARN".to_owned(),
        format!("-Dquarkus.datasource.jdbc.url=jdbc:h2:file:{}/schemas", folder.display()),
        "-jar".to_owned(),
        jar.display().to_string(),
    ];
    Ok(Launch {
        name: "Apicurio registry".to_owned(),
        folder: folder.to_owned(),
        prepare: None,
        arguments: run.into(),
        port,
        probe: Probe::Http { path: "/apis/ccompat/v7/subjects" },
    })
}
