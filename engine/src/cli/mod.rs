//! The command line: arguments, one file per command, and the only place that prints.
//!
//! Data goes to standard output, everything else to standard error. Exit codes are in [`exit`].

mod args;
mod attach;
mod cache;
mod carry;
mod check;
mod compare;
mod completions;
mod dashboard;
mod devices;
mod executor;
mod exit;
mod explain;
mod export;
mod fetch;
mod fmt;
mod graph;
mod import;
mod key;
mod limits;
mod log;
mod logging;
mod merge;
mod methods;
mod new;
mod output;
mod past;
mod plan;
mod plot;
mod project;
mod question;
mod reference;
mod remote;
mod report;
mod reproduce;
mod results;
mod run;
mod runs;
mod serve;
mod show;
mod spectra;
mod stages;
mod tag;
mod transfer;
mod trust;

use clap::Parser as _;

use self::{
    args::{Args, Command},
    exit::{Exit, Failure},
};
use crate::{exec, stage::Registry};

/// Runs the command line of this process with the stage kinds of a registry.
#[must_use]
pub fn main(registry: Registry) -> std::process::ExitCode {
    completions::answer(registry);
    let args = Args::parse();
    logging::start(args.global.verbose);
    let result = match &args.command {
        Command::Run(run) => run::run(registry, &args.global, run),
        Command::Plan(plan) => plan::plan(registry, &args.global, plan),
        Command::Check(check) => check::check(registry, &args.global, check),
        Command::Explain(explain) => explain::explain(registry, &args.global, explain),
        Command::Graph(graph) => graph::graph(registry, &args.global, graph),
        Command::Attach(attach) => attach::attach(registry, attach, &args.global),
        Command::Runs(runs) => runs::runs(&args.global, runs),
        Command::Show(show) => show::show(&args.global, show),
        Command::Log(log) => log::log(&args.global, log),
        Command::Results(results) => results::results(&args.global, results),
        Command::Compare(compare) => compare::compare(&args.global, compare),
        Command::Plot(plot) => plot::plot(&args.global, plot),
        Command::Report(report) => report::report(&args.global, report),
        Command::Dashboard(dashboard) => dashboard::dashboard(&args.global, dashboard),
        Command::Cache(cache) => cache::cache(&args.global, cache),
        Command::Merge(merge) => merge::merge(&args.global, merge),
        Command::Divergences(divergences) => merge::divergences(&args.global, divergences),
        Command::Export(export) => export::export(registry, &args.global, export),
        Command::Import(import) => import::import(&args.global, import),
        Command::Reproduce(reproduce) => reproduce::reproduce(registry, &args.global, reproduce),
        Command::Tag(tag) => tag::tag(&args.global, tag),
        Command::Remote(remote) => remote::remote(&args.global, remote),
        Command::Push(push) => transfer::push(&args.global, push),
        Command::Pull(pull) => transfer::pull(&args.global, pull),
        Command::Serve(serve) => serve::serve(serve),
        Command::Key(key) => key::key(&args.global, key),
        Command::Stages => stages::list(registry),
        Command::Devices(devices) => devices::devices(registry, devices),
        Command::Help(help) => stages::help(registry, help),
        Command::Methods(methods) => methods::methods(registry, methods),
        Command::New(new) => new::new(registry, new),
        Command::Fmt(fmt) => fmt::fmt(fmt),
        Command::Completions(completions) => completions::register(completions),
        Command::Schema => {
            output::json(&crate::schema::manifest_schema(registry));
            Ok(Exit::Fine)
        }
        Command::Work => return std::process::ExitCode::from(u8::try_from(exec::work(registry)).unwrap_or(1)),
        Command::Job { folder } => {
            return std::process::ExitCode::from(u8::try_from(exec::job(registry, folder)).unwrap_or(1));
        }
        Command::Reap => {
            exec::reap();
            Ok(Exit::Fine)
        }
    };
    let exit = result.unwrap_or_else(|failure: Failure| {
        output::error(&failure);
        failure.exit
    });
    exit.code()
}
