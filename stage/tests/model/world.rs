//! The whole arrow: source topics, stages, their processes and the network between them and the
//! broker. One seed is one world; everything random comes from it.

use std::collections::{HashMap, HashSet, VecDeque};

use millrace_schemas::Source;
use millrace_stage::core::Partition;

use super::log::{Group, Log, Topic};
use super::process::{Head, Process};
use super::random::Random;
use super::rules::{Bug, Coverage};

/// One stage of the arrow.
#[derive(Debug, Clone)]
pub struct Stage {
    pub inputs: Vec<Topic>,
    pub output: Option<Topic>,
    pub drops_duplicates: bool,
    pub pays: bool,
}

/// What does not change in a world.
#[derive(Debug)]
pub struct Spec {
    pub stages: Vec<Stage>,
    /// By topic.
    pub partitions: Vec<Partition>,
    /// By topic: the stage that consumes it.
    pub consumer: Vec<usize>,
    pub windows: Vec<u32>,
    pub records: usize,
    pub sources: Vec<Topic>,
    /// One in so many events is a fault, in a wild phase.
    pub calm: usize,
    /// One in so many events is everything that a healthy process does, in a calm phase.
    pub smooth: usize,
    pub gaps: bool,
}

/// An output on its way to the broker.
pub struct Produce {
    pub topic: Topic,
    pub from: (Topic, i64),
    pub request: (Topic, i64),
    pub source: Source,
    pub process: usize,
    pub work: u64,
}

pub struct World {
    pub spec: Spec,
    pub bug: Bug,
    pub random: Random,
    pub logs: Vec<Log>,
    pub groups: Vec<Group>,
    pub processes: Vec<Process>,
    pub network: Vec<Produce>,
    /// Commits on their way to the broker, and answers on their way back, in order per process.
    pub commits: VecDeque<(usize, Vec<Head>)>,
    pub answers: VecDeque<(usize, Vec<Head>, bool)>,
    /// Records that the last stage worked off.
    pub settled: HashSet<(Topic, i64)>,
    /// Calls paid for and works interrupted, by record.
    pub calls: HashMap<(Topic, i64), (u32, u32)>,
    /// Requests that may have two outcomes, because a copy was out of a reader's sight.
    pub excused: HashSet<(Topic, i64)>,
    pub coverage: Coverage,
    pub trace: Option<Vec<String>>,
    next_process: usize,
    pub next_work: u64,
    pub next_epoch: u64,
}

macro_rules! note {
    ($world:expr, $($text:tt)*) => {
        if let Some(trace) = &mut $world.trace {
            trace.push(format!($($text)*));
        }
    };
}
pub(crate) use note;

impl World {
    pub fn new(seed: u64, bug: Bug, sources: usize, traced: bool) -> Self {
        let mut random = Random::new(seed);
        let windows: Vec<u32> = if random.one_in(3) {
            // Deployments that make the window much smaller, and larger again.
            vec![1 + random.below(2) as u32, 8 + random.below(12) as u32]
        } else {
            (0..1 + random.below(3)).map(|_| 1 + random.below(6) as u32).collect()
        };
        let inputs: Vec<Topic> = (0..sources).collect();
        let mut names = vec!["requests", "steps"];
        names.truncate(sources);
        let mut stages = Vec::new();
        let mut feed = inputs.clone();
        for name in ["prompts", "completions"].iter().take(1 + random.below(2)) {
            let output = names.len();
            names.push(name);
            let drops_duplicates = feed != inputs;
            stages.push(Stage { inputs: feed, output: Some(output), drops_duplicates, pays: random.one_in(2) });
            feed = vec![output];
        }
        stages.push(Stage { inputs: feed, output: None, drops_duplicates: true, pays: false });
        let consumer =
            (0..names.len()).map(|t| stages.iter().position(|s| s.inputs.contains(&t)).expect("consumed")).collect();
        let logs: Vec<Log> = names.iter().map(|name| Log::new(name)).collect();
        let partitions = logs.iter().map(|log| log.partition.clone()).collect();
        let spec = Spec {
            stages,
            partitions,
            consumer,
            windows,
            records: [20, 100, 600][random.below(3)],
            sources: inputs,
            calm: [5, 15, 50][random.below(3)],
            smooth: [2, 5, 1_000][random.below(3)],
            gaps: random.one_in(3),
        };
        let groups = logs.iter().map(|_| Group::default()).collect();
        let mut world = Self {
            spec,
            bug,
            random,
            logs,
            groups,
            processes: Vec::new(),
            network: Vec::new(),
            commits: VecDeque::new(),
            answers: VecDeque::new(),
            settled: HashSet::new(),
            calls: HashMap::new(),
            excused: HashSet::new(),
            coverage: Coverage::default(),
            trace: traced.then(Vec::new),
            next_process: 0,
            next_work: 0,
            next_epoch: 0,
        };
        note!(world, "{:?}", world.spec);
        world
    }

    /// The largest window of any writer of this world: what readers take every writer to have had.
    pub fn least_window(&self, present: u32) -> u32 {
        if self.bug == Bug::TrustsPresentWindow {
            present
        } else {
            self.spec.windows.iter().copied().max().unwrap_or(1)
        }
    }

    pub fn append_source(&mut self, topic: Topic) {
        self.gap(topic);
        let offset = self.logs[topic].append(None, topic, None);
        note!(self, "source {topic}@{offset}");
    }

    /// Sometimes leaves offsets out, as transaction markers and compaction do.
    pub fn gap(&mut self, topic: Topic) {
        if self.spec.gaps && self.random.one_in(8) {
            let wide = self.random.one_in(4);
            let width = if wide { 8 + self.random.below(40) } else { 1 + self.random.below(3) };
            self.coverage.gaps_wider_than_window += u64::from(wide);
            self.logs[topic].end += width as i64;
        }
    }

    pub fn process(&mut self, id: usize) -> Option<&mut Process> {
        self.processes.iter_mut().find(|p| p.id == id)
    }

    pub fn start_process(&mut self, stage: usize) -> usize {
        let id = self.next_process;
        self.next_process += 1;
        let window = self.random.pick(&self.spec.windows).unwrap_or(1);
        let records = if self.random.one_in(4) { 1 + self.random.below(6) } else { 100 };
        note!(self, "process {id} of stage {stage} starts with window {window}");
        self.processes.push(Process::new(id, stage, window, records));
        id
    }
}
