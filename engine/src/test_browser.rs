//! A real browser for tests: Chromium without a window. Where there is none, a test says that it is skipped.

use std::process::Command;

use camino::Utf8Path;

/// A browser that can be started.
pub(crate) struct Browser(&'static str);

/// What came of loading a page.
pub(crate) struct Shown {
    /// The page in the end, after its scripts.
    pub(crate) page: String,
    /// The browser's log, with what the page's console was told.
    pub(crate) said: String,
    /// All that the browser asked the network for.
    pub(crate) network: String,
}

impl Browser {
    pub(crate) fn find() -> Option<Self> {
        let found = ["chromium", "chromium-browser", "google-chrome"]
            .into_iter()
            .find(|name| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success()));
        if found.is_none() {
            eprintln!("no browser in the PATH: what a page looks like in one is not tested (apt-get install chromium)");
        }
        found.map(Self)
    }

    /// Loads an address; what the browser needs for itself goes into `folder`.
    pub(crate) fn show(&self, folder: &Utf8Path, address: &str, options: &[&str]) -> Shown {
        let log = folder.join("network.json");
        let output = Command::new(self.0)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--dump-dom"])
            .args(["--disable-background-networking", "--disable-component-update", "--no-first-run"])
            .arg(format!("--user-data-dir={folder}/profile"))
            .arg(format!("--log-net-log={log}"))
            .args(options)
            .arg(address)
            .output()
            .unwrap();
        Shown {
            page: String::from_utf8_lossy(&output.stdout).into_owned(),
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
            network: std::fs::read_to_string(log).unwrap_or_default(),
        }
    }
}
