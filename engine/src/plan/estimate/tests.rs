use camino::Utf8Path;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;
use crate::{
    diagnostic::{Sources, render},
    manifest::Manifest,
    stage::{Check, Dtype, NoKnobs, Port, PortType, Registry, Stage, StageContext, StageEntry, StageError},
};

/// Makes a model of so many parameters, or doubles the one it is given.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Size {
    #[serde(default)]
    size: u64,
}

struct Grow;

const ANY: PortType = PortType("model");

impl Stage for Grow {
    const KIND: &'static str = "grow";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[Port::new("init", ANY, "").optional()];
    const OUTPUTS: &'static [Port] = &[Port::new("model", ANY, "")];
    const SEEDED: bool = false;
    const ON_DEVICE: bool = false;
    type Params = Size;
    type Knobs = NoKnobs;

    fn check(params: &Size, check: &mut Check<'_>) {
        check.state("model", "parameters", check.fact("init", "parameters").map_or(params.size as f64, |n| 2.0 * n));
    }

    fn estimate(params: &Size, check: &Check<'_>, dtype: Dtype) -> Estimate {
        let parameters = check.fact("init", "parameters").map_or(params.size, |n| 2 * n as u64);
        let weights = parameters * dtype.bytes();
        Estimate {
            parameters: Some(parameters),
            weight_bytes: Some(weights),
            optimizer_state_bytes: Some(2 * weights),
            output_bytes: Some(weights),
            ..Estimate::default()
        }
    }

    fn run(_: &Size, _: &NoKnobs, _: &mut StageContext<'_>) -> Result<(), StageError> {
        Ok(())
    }
}

static ENTRIES: &[StageEntry] = &[StageEntry::of::<Grow>()];

const TEXT: &str = "[stages.a]\nkind = \"grow\"\nmatrix = { size = [1000, 3000, 2000] }\n\
                    [stages.b]\nkind = \"grow\"\ninputs = { init = \"a\" }\nresources = { memory = \"10 KiB\" }\n";

fn plan(sources: &mut Sources) -> Plan {
    let (manifest, _) = Manifest::parse(sources, "m.toml", TEXT).unwrap();
    Plan::resolve(manifest, Registry::new(ENTRIES), Utf8Path::new("/")).unwrap()
}

#[test]
fn estimates_follow_facts_along_the_wires() {
    let plan = plan(&mut Sources::default());
    let of = |name: &str| plan.node(plan.find(name).unwrap()).estimate.parameters;
    assert_eq!([of("a[size=3000]"), of("b[size=1000]"), of("b[size=3000]")], [3000, 2000, 6000].map(Some));
}

#[test]
fn what_the_machine_has_not_is_said_once_for_a_sweep() {
    let mut sources = Sources::default();
    let plan = plan(&mut sources);
    let machine = Machine { memory: 30_000, free_disk: Some(40_000) };
    let found = over_limits(&plan, plan.ids(), machine);
    insta::assert_snapshot!(render(&found, &sources, false), @r#"
    warning[plan::memory]: `a[size=3000]` needs about 35.2 KiB of memory, and this machine has 29.3 KiB
     --> m.toml:1:9
      |
    1 | [stages.a]
      |         ^ weights 11.7 KiB, optimiser state 23.4 KiB
      |
      = help: choose a method that keeps less, such as galore with `optimizer = "adam8bit"`

    warning[plan::memory]: `b[size=3000]` needs about 70.3 KiB of memory, and this machine has 29.3 KiB; so does 1 more node of this stage
     --> m.toml:4:9
      |
    4 | [stages.b]
      |         ^ weights 23.4 KiB, optimiser state 46.9 KiB
      |
      = help: choose a method that keeps less, such as galore with `optimizer = "adam8bit"`

    warning[plan::memory-understated]: `b[size=3000]` says that it needs 10.0 KiB of memory, but weights, gradients and optimiser state alone are 70.3 KiB
     --> m.toml:4:9
      |
    4 | [stages.b]
      |         ^
      |
      = help: write resources = { memory = "1 MiB" }, or leave it out

    warning[plan::disk]: the outputs take up to 70.3 KiB, and the disk of the store has 39.1 KiB left
     --> m.toml:4:9
      |
    4 | [stages.b]
      |         ^ `b[size=3000]` makes 23.4 KiB, more than any other
      |
      = help: free some with `sepia cache gc`, put the store elsewhere with `--store DIR`, or run a part
    "#);
    assert_eq!(over_limits(&plan, std::iter::empty(), machine), []);
    let enough = Machine { memory: 80_000, free_disk: None };
    let codes: Vec<&str> = over_limits(&plan, plan.ids(), enough).iter().map(|one| one.code).collect();
    assert_eq!(codes, ["plan::memory-understated"]);
}
