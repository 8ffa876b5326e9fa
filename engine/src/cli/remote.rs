//! `sepia remote`.

use sepia_cache::{Links, RemoteOptions, Way};
use serde_json::json;

use super::{
    args::{self, Format, Global, RemoteCommand},
    exit::{Exit, Failure},
    output, project,
};

pub(super) fn remote(global: &Global, args: &args::Remote) -> Result<Exit, Failure> {
    match &args.what {
        RemoteCommand::Add { name, url, trust, copy } => {
            let options = RemoteOptions { trust: *trust, copy: *copy };
            let config = project::make_store(global)?.add_remote(name, url, options)?;
            let probe = config.probe;
            let mut text = format!("added {name}: {}\n", config.url);
            let facts = [
                (probe.lists_after_write, "lists what was just written"),
                (probe.ranged_reads, "reads from the middle: an interrupted pull goes on where it was"),
                (probe.create_exclusive, "refuses to create what is there (nothing depends on it)"),
            ];
            for (is_so, what) in facts {
                text.push_str(&format!("  {} {what}\n", if is_so { "yes" } else { "no " }));
            }
            match probe.way {
                Some(Way::Serve) => text.push_str("  yes has Sepia there: both sides hash\n"),
                Some(Way::Sftp) => {
                    text.push_str(
                        "  no  Sepia there: goes over its sftp, and what is pushed is checked when it is pulled\n",
                    );
                }
                None => {}
            }
            if let Some(links) = probe.links {
                let how = match (links, copy) {
                    (_, true) => "could share files with the store, and will copy them (`--copy`)",
                    (Links::Clone, false) => {
                        "shares the blocks of files with the store: nothing is copied until it changes"
                    }
                    (Links::HardLink, false) => {
                        "shares files with the store (hard links): no second copy on the disk; `--copy` makes one"
                    }
                };
                text.push_str(&format!("  yes {how}\n"));
            }
            output::data(&text);
            if !probe.lists_after_write {
                output::note("results pushed to it may be seen by others only after a while");
            }
            if !*trust {
                output::note(
                    "results from it count only if someone in `trusted_keys` has signed them; `--trust` takes all of them",
                );
            }
        }
        RemoteCommand::Remove { name } => project::existing_store(global, None)?.remove_remote(name)?,
        RemoteCommand::List { format } => {
            let remotes = project::existing_store(global, None)?.remotes()?;
            if *format == Format::Json {
                output::json(&json!(remotes));
            } else if remotes.is_empty() {
                output::note("there are none; `sepia remote add NAME URL` adds one");
            } else {
                let trusted = |trust: bool| if trust { "all" } else { "signed" }.to_owned();
                let rows = remotes.into_iter().map(|remote| vec![remote.name, remote.url, trusted(remote.trust)]);
                output::data(&output::table(&["name", "url", "trusted"], rows.collect()));
            }
        }
    }
    Ok(Exit::Fine)
}
