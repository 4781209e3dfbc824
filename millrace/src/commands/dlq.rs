//! `millrace dlq`

use std::io::Write;

use anyhow::bail;
use comfy_table::Table;
use millrace_config::Config;
use millrace_schemas::{Codec, LetterAction, value_to_json};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::{ChoiceArgs, DlqAction, DlqArgs, StateArg};
use crate::letters::{self, Filter, Letter, LetterId, Letters, State};
use crate::redrive::{Again, Redriver};
use crate::ui::count;
use crate::wiring::{connect_codec, wait_for_kafka};

/// Lists, shows, redrives or drops dead letters.
pub async fn run(args: DlqArgs, config: Config, json: bool) -> anyhow::Result<()> {
    wait_for_kafka(&config).await?;
    let codec = connect_codec(&config).await?;
    match args.action {
        DlqAction::List { state, limit, filter } => {
            list(&config, &codec, &filter.into(), state, limit.max(1), json).await
        }
        DlqAction::Show { letter } => show(&config, &codec, letter, json).await,
        DlqAction::Redrive(choice) => {
            let dry_run = choice.dry_run;
            let redriver = Redriver::new(&config, &codec)?;
            let act = async |letter: &Letter| redrive(&redriver, letter, dry_run).await;
            on_each(&config, &codec, choice, act, json).await
        }
        DlqAction::Drop { choice, yes } => {
            if choice.all && !yes && !choice.dry_run {
                bail!("--all drops many: say --yes, or look first with --dry-run");
            }
            let dry_run = choice.dry_run;
            let redriver = Redriver::new(&config, &codec)?;
            let act = async |letter: &Letter| drop(&redriver, letter, dry_run).await;
            on_each(&config, &codec, choice, act, json).await
        }
    }
}

/// What became of a dead letter that was acted on.
enum Done {
    /// It is done, or would be: what.
    Acted(String),
    /// There is nothing to do: why.
    Skipped(String),
    /// It can not be done: why.
    Refused(String),
}

async fn redrive(redriver: &Redriver, letter: &Letter, dry_run: bool) -> anyhow::Result<Done> {
    if let State::Done(LetterAction::Redriven, at) = letter.state {
        return Ok(Done::Skipped(format!("it was redriven at {}", instant(at))));
    }
    let again = match redriver.plan(letter).await? {
        Ok(again) => again,
        Err(why) => return Ok(Done::Refused(why)),
    };
    let what = match &again {
        Again::Request(lane, redrive) => format!("{lane} request, run {}", redrive.run),
        Again::Document(..) => "document, published again".to_owned(),
    };
    if !dry_run {
        if let Err(why) = redriver.write(&again).await? {
            return Ok(Done::Refused(why));
        }
        redriver.note(letter.id, LetterAction::Redriven).await?;
    }
    Ok(Done::Acted(what))
}

async fn drop(redriver: &Redriver, letter: &Letter, dry_run: bool) -> anyhow::Result<Done> {
    if let State::Done(action, at) = letter.state {
        return Ok(Done::Skipped(format!("it was {action} at {}", instant(at))));
    }
    if !dry_run {
        redriver.note(letter.id, LetterAction::Dropped).await?;
    }
    Ok(Done::Acted("dropped".to_owned()))
}

/// Acts on what was chosen and says what became of each; an error when something was refused.
async fn on_each(
    config: &Config,
    codec: &Codec,
    choice: ChoiceArgs,
    act: impl AsyncFn(&Letter) -> anyhow::Result<Done>,
    json: bool,
) -> anyhow::Result<()> {
    if !choice.letters.is_empty() && !choice.filter.is_empty() {
        bail!("name dead letters, or choose them by --all and filters");
    }
    let mut report = Report { dry_run: choice.dry_run, json, ..Report::default() };
    let bar = count("dead letters");
    if choice.all {
        let filter = Filter::from(choice.filter);
        let mut letters = Letters::read(config, codec).await?;
        while let Some(letter) = letters.next().await? {
            bar.inc(1);
            if letter.state == State::Open && filter.fits(&letter.letter) {
                report.tell(&letter, act(&letter).await?)?;
            }
        }
    } else {
        let states = letters::states(config, codec).await?;
        for id in choice.letters {
            let letter = letters::one(config, codec, &states, id).await?;
            bar.inc(1);
            report.tell(&letter, act(&letter).await?)?;
        }
    }
    bar.finish_and_clear();
    report.close()
}

#[derive(Default)]
struct Report {
    dry_run: bool,
    json: bool,
    acted: u64,
    skipped: u64,
    refused: u64,
}

impl Report {
    fn tell(&mut self, letter: &Letter, done: Done) -> anyhow::Result<()> {
        let (count, word, text) = match done {
            Done::Acted(what) => (&mut self.acted, if self.dry_run { "would be done" } else { "done" }, what),
            Done::Skipped(why) => (&mut self.skipped, "skipped", why),
            Done::Refused(why) => (&mut self.refused, "refused", why),
        };
        *count += 1;
        let mut out = std::io::stdout();
        if self.json {
            let line = json!({ "letter": letter.id.to_string(), "request_id": letter.letter.request_id, "result": word, "what": text });
            writeln!(out, "{line}")?;
        } else {
            writeln!(out, "{:<10} {word}: {text}", letter.id.to_string())?;
        }
        Ok(())
    }

    fn close(self) -> anyhow::Result<()> {
        let Self { dry_run, json, acted, skipped, refused } = self;
        if json {
            println!("{}", json!({ "done": acted, "skipped": skipped, "refused": refused, "dry_run": dry_run }));
        } else {
            let done = if dry_run { "would be done" } else { "done" };
            println!("{acted} {done}, {skipped} skipped, {refused} refused");
        }
        if refused > 0 {
            bail!("{refused} dead letters were refused; each says why");
        }
        Ok(())
    }
}

async fn list(
    config: &Config,
    codec: &Codec,
    filter: &Filter,
    state: StateArg,
    limit: usize,
    json: bool,
) -> anyhow::Result<()> {
    let mut letters = Letters::read(config, codec).await?;
    let bar = count("dead letters");
    let (mut newest, mut total) = (Vec::new(), 0_u64);
    while let Some(letter) = letters.next().await? {
        bar.inc(1);
        if fits(letter.state, state) && filter.fits(&letter.letter) {
            total += 1;
            newest.push((letter.letter.at, summary(&letter)));
            if newest.len() >= limit.saturating_mul(2) {
                keep(&mut newest, limit);
            }
        }
    }
    bar.finish_and_clear();
    keep(&mut newest, limit);
    let mut out = std::io::stdout();
    if json {
        for (_, line) in &newest {
            writeln!(out, "{line}")?;
        }
        return Ok(());
    }
    if newest.is_empty() {
        writeln!(out, "no dead letters")?;
        return Ok(());
    }
    let mut table = Table::new();
    table.set_header(["letter", "at", "stage", "code", "tenant", "request", "from", "runs", "state"]);
    for (_, line) in &newest {
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let runs = line["history"].as_array().map_or(0, Vec::len) + 1;
        table.add_row([
            text("letter"),
            // Seconds are enough to look at.
            text("at").chars().take(19).collect(),
            text("stage"),
            text("code"),
            text("tenant"),
            text("request_id"),
            text("from"),
            runs.to_string(),
            text("state"),
        ]);
    }
    writeln!(out, "{table}")?;
    let shown = newest.len() as u64;
    if shown < total {
        writeln!(out, "the newest {shown} of {total}; --limit shows more")?;
    }
    Ok(())
}

/// The newest so many, the newest last.
fn keep(lines: &mut Vec<(i64, Value)>, limit: usize) {
    lines.sort_by_key(|(at, _)| *at);
    lines.drain(..lines.len().saturating_sub(limit));
}

fn fits(state: State, wanted: StateArg) -> bool {
    match wanted {
        StateArg::All => true,
        StateArg::Open => state == State::Open,
        StateArg::Redriven => matches!(state, State::Done(LetterAction::Redriven, _)),
        StateArg::Dropped => matches!(state, State::Done(LetterAction::Dropped, _)),
    }
}

fn summary(letter: &Letter) -> Value {
    let (state, acted_at) = match letter.state {
        State::Open => ("open", None),
        State::Done(action, at) => (action.as_str(), Some(instant(at))),
    };
    let inner = &letter.letter;
    json!({
        "letter": letter.id.to_string(),
        "at": instant(inner.at),
        "stage": inner.stage,
        "code": inner.code,
        "error": inner.error,
        "tenant": inner.tenant,
        "request_id": inner.request_id,
        "from": letter.place(),
        "history": letter.history(),
        "state": state,
        "acted_at": acted_at,
    })
}

async fn show(config: &Config, codec: &Codec, id: LetterId, json: bool) -> anyhow::Result<()> {
    let states = letters::states(config, codec).await?;
    let letter = letters::one(config, codec, &states, id).await?;
    let mut whole = summary(&letter);
    let (key, value, headers) = match &letter.redrive {
        Some(redrive) => (&redrive.key, Some(&redrive.value), &redrive.headers),
        None => (&letter.letter.key, letter.letter.value.as_ref(), &letter.letter.headers),
    };
    let shown = |bytes: Option<&Vec<u8>>| bytes.map_or(Value::Null, |bytes| value_to_json(&bytes.clone().into()));
    whole["key"] = shown(key.as_ref());
    whole["headers"] = headers.iter().map(|h| json!([h.name, shown(h.value.as_ref())])).collect();
    whole["bytes"] = value.map(Vec::len).into();
    whole["value"] = match value {
        Some(bytes) => match codec.view(bytes).await {
            Ok(view) => view.value,
            Err(_) => shown(Some(bytes)),
        },
        None => Value::Null,
    };
    if json {
        println!("{whole}");
    } else {
        println!("{}", serde_json::to_string_pretty(&whole)?);
    }
    Ok(())
}

fn instant(micros: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000);
    at.ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_else(|| micros.to_string())
}
