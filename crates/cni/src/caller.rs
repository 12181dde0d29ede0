//! Plugins that can be called: their files, the version that all of them speak, and one call.

use std::{fmt, os::unix::process::ExitStatusExt, path::PathBuf, thread};

use serde_json::{Map, Value};

use crate::{
    ResultError,
    call::{self, Verb},
    configuration::{NetworkList, Plugin},
    error::{Error, PluginFailure, Reason},
    node_device,
    process::{self, Environment, Finished, Limits, RunError},
    target::Target,
    version::Version,
};

/// Most characters of an output that an error shows.
const MAX_SHOWN: usize = 500;

/// A plugin and its file.
pub(crate) struct Program<'a> {
    pub(crate) plugin: &'a Plugin,
    path: PathBuf,
}

/// A list that can be run: its plugins are there, and all speak one version.
pub(crate) struct Ready<'a> {
    pub(crate) list: &'a NetworkList,
    pub(crate) version: Version,
    pub(crate) programs: Vec<Program<'a>>,
}

/// Gets what a plugin wrote to standard error although it succeeded.
pub type Notes = Box<dyn Fn(&str, Verb, &str) + Send + Sync>;

/// The plugins of a node, and how they are run.
pub struct Plugins {
    /// Where plugins are, in order: `CNI_PATH`.
    pub dirs: Vec<PathBuf>,
    /// How long a plugin may run.
    pub limits: Limits,
    /// What plugins get of this process' environment.
    pub environment: Environment,
    /// Gets the standard error of plugins that succeed.
    pub notes: Notes,
}

impl fmt::Debug for Plugins {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dirs, limits, environment, .. } = self;
        let mut out = out.debug_struct("Plugins");
        out.field("dirs", dirs).field("limits", limits).field("environment", environment).finish_non_exhaustive()
    }
}

impl Plugins {
    /// Plugins in these directories, with this process' environment.
    pub fn new(dirs: Vec<PathBuf>, limits: Limits) -> Self {
        Self { dirs, limits, environment: Environment::Inherited, notes: Box::new(|_, _, _| {}) }
    }

    /// The name of the file that a plugin is, past links.
    pub(crate) fn file_of(&self, plugin: &str) -> Option<String> {
        let is_file_name = !plugin.contains('/');
        let mut paths = self.dirs.iter().filter(|_| is_file_name).map(|directory| directory.join(plugin));
        node_device::file_name_of(&paths.find(|path| path.is_file())?)
    }

    fn programs<'a>(&self, list: &'a NetworkList, verb: Verb) -> Result<Vec<Program<'a>>, PluginFailure> {
        list.plugins().iter().map(|plugin| self.program(plugin, verb)).collect()
    }

    /// The file of a plugin.
    pub(crate) fn program<'a>(&self, plugin: &'a Plugin, verb: Verb) -> Result<Program<'a>, PluginFailure> {
        let mut paths = self.dirs.iter().map(|directory| directory.join(plugin.kind()));
        let path = paths.find(|path| path.is_file());
        let missing = || PluginFailure::new(plugin, verb, Reason::NotFound(self.dirs.clone()));
        Ok(Program { plugin, path: path.ok_or_else(missing)? })
    }

    /// Finds the plugins and the version in which they are called: that of the ADD, or the newest that all of them speak. One
    /// plugin with one version is not asked: it says itself what it does not speak, before it does anything.
    pub(crate) fn prepare<'a>(
        &self,
        list: &'a NetworkList,
        verb: Verb,
        made_in: Option<Version>,
    ) -> Result<Ready<'a>, Error> {
        let programs = self.programs(list, verb)?;
        let version = match (made_in.filter(|version| list.versions().contains(version)), list.versions()) {
            (Some(version), _) => version,
            (None, [only]) if programs.len() == 1 => *only,
            (None, wanted) => self.negotiate(&programs, wanted, verb)?,
        };
        Ok(Ready { list, version, programs })
    }

    /// As [`Plugins::prepare`], for STATUS and GC: plugins of an older version take them for a command without an interface.
    pub(crate) fn prepare_gc<'a>(&self, list: &'a NetworkList, verb: Verb) -> Result<Ready<'a>, Error> {
        let newest = list.versions()[0];
        if !newest.has_gc() {
            return Err(Error::NoVerb { network: list.name().clone(), version: newest, verb });
        }
        let programs = self.programs(list, verb)?;
        self.negotiate(&programs, &[newest], verb)?;
        Ok(Ready { list, version: newest, programs })
    }

    /// The newest of the versions that all plugins speak. They are asked all at a time.
    fn negotiate(&self, programs: &[Program<'_>], wanted: &[Version], verb: Verb) -> Result<Version, PluginFailure> {
        let answers: Vec<_> = thread::scope(|scope| {
            let asked: Vec<_> = programs.iter().map(|program| scope.spawn(|| self.versions(program))).collect();
            asked.into_iter().map(thread::ScopedJoinHandle::join).collect()
        });
        let mut common = wanted.to_vec();
        for (program, answer) in programs.iter().zip(answers) {
            let supported = answer.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            common.retain(|version| supported.iter().any(|it| it == version.as_str()));
            if common.is_empty() {
                let reason = Reason::Version { wanted: wanted.to_vec(), supported };
                return Err(PluginFailure::new(program.plugin, verb, reason));
            }
        }
        Ok(common[0])
    }

    /// The versions that a plugin supports.
    fn versions(&self, program: &Program<'_>) -> Result<Vec<String>, PluginFailure> {
        let input = Map::from_iter([("cniVersion".to_owned(), Value::from(Version::NEWEST.as_str()))]);
        let output = match self.call(program, Verb::Version, None, &input) {
            // the first version of the specification had no such command
            Err(PluginFailure { reason: Reason::Refused { msg, .. }, .. }) if msg.contains("unknown CNI_COMMAND") => {
                return Ok(vec![Version::V0_1_0.to_string()]);
            }
            output => output?,
        };
        let invalid =
            |error: String| PluginFailure::new(program.plugin, Verb::Version, Reason::Result(ResultError::Json(error)));
        let answer: Value = serde_json::from_slice(&output).map_err(|error| invalid(error.to_string()))?;
        let versions = answer.get("supportedVersions").and_then(Value::as_array);
        let versions: Option<Vec<String>> =
            versions.and_then(|all| all.iter().map(|version| version.as_str().map(Into::into)).collect());
        versions.ok_or_else(|| invalid("no supportedVersions".into()))
    }

    /// Calls a plugin, and returns what it wrote.
    pub(crate) fn call(
        &self,
        program: &Program<'_>,
        verb: Verb,
        target: Option<&Target>,
        input: &Map<String, Value>,
    ) -> Result<Vec<u8>, PluginFailure> {
        self.call_within(&self.limits, program, verb, target, input)
    }

    /// As [`Plugins::call`], within other limits.
    pub(crate) fn call_within(
        &self,
        limits: &Limits,
        Program { plugin, path }: &Program<'_>,
        verb: Verb,
        target: Option<&Target>,
        input: &Map<String, Value>,
    ) -> Result<Vec<u8>, PluginFailure> {
        let dirs: Vec<String> = self.dirs.iter().map(|directory| directory.display().to_string()).collect();
        let mut variables = call::environment(verb, target, &dirs.join(":"));
        if verb == Verb::Version {
            // plugins of the first versions check them even so
            variables.insert("CNI_NETNS", "dummy".into());
            variables.insert("CNI_IFNAME", "dummy".into());
        }
        let input = serde_json::to_vec(input).unwrap_or_default();
        let run = process::run(path, &variables, self.environment, &input, limits);
        let failure = |reason, stderr| PluginFailure { stderr, ..PluginFailure::new(plugin, verb, reason) };
        let Finished { status, output, errors } = run.map_err(|error| match error {
            RunError::Start(error) | RunError::Io(error) => failure(Reason::Start(error), String::new()),
            RunError::TimedOut(time, errors) => failure(Reason::TimedOut(time), errors),
            RunError::Stopped => failure(Reason::Stopped, String::new()),
            RunError::TooLong => failure(Reason::TooLong, String::new()),
        })?;
        match (status.code(), refusal(&output)) {
            (Some(0), None) => {
                if !errors.is_empty() {
                    (self.notes)(plugin.kind(), verb, &errors);
                }
                Ok(output)
            }
            // an error, whatever the status says
            (Some(_), Some(refused)) => Err(failure(refused, errors)),
            (Some(status), None) => {
                let text = String::from_utf8_lossy(&output);
                Err(failure(Reason::Exited(status, text.trim().chars().take(MAX_SHOWN).collect()), errors))
            }
            (None, _) => Err(failure(Reason::Signalled(status.signal().unwrap_or_default()), errors)),
        }
    }
}

/// The error object in an output, if it is one.
fn refusal(output: &[u8]) -> Option<Reason> {
    let object: Map<String, Value> = serde_json::from_slice(output).ok()?;
    let code = object.get("code").and_then(Value::as_u64);
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (msg, details) = (text("msg"), text("details"));
    match code {
        None if msg.is_empty() => None,
        Some(0) if msg.is_empty() && details.is_empty() => None,
        code => Some(Reason::Refused { code: code.unwrap_or_default(), msg, details }),
    }
}
