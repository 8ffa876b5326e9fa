//! The logs of attempts. Most stages say nothing: the file of one that has not becomes the log of the next.
//!
//! A log is there, under its name, from before the stage starts, so that a kill loses nothing of it. Making a file and
//! removing it again for each stage costs more than giving another name to one that is there, and ext4 without a journal
//! takes the longer to make a file the more were removed in the last minute. So an empty log becomes a spare, and a spare
//! gets the name of the next log beside its own; if something was written, it loses its own name and is a log for good.

use std::sync::{Mutex, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};

/// The spares of a run, removed in the end.
#[derive(Default)]
pub(super) struct LogFiles {
    spare: Mutex<Vec<Spare>>,
}

struct Spare {
    path: Utf8PathBuf,
    file: fs_err::File,
}

/// The log of an attempt that is under way.
pub(super) struct LogFile {
    pub(super) file: fs_err::File,
    path: Utf8PathBuf,
    spare: Option<Utf8PathBuf>,
}

impl LogFiles {
    /// Opens a log to add to it.
    pub(super) fn open(&self, path: &Utf8Path) -> std::io::Result<LogFile> {
        let spare = self.spare().pop();
        if let Some(Spare { path: own, file }) = spare
            && std::fs::hard_link(&own, path).is_ok()
        {
            return Ok(LogFile { file, path: path.to_owned(), spare: Some(own) });
        }
        let file = fs_err::OpenOptions::new().create(true).append(true).read(true).open(path)?;
        Ok(LogFile { file, path: path.to_owned(), spare: None })
    }

    /// Keeps a log that says something; one that says nothing goes.
    pub(super) fn close(&self, log: LogFile) {
        let LogFile { file, path, spare } = log;
        let empty = file.metadata().is_ok_and(|file| file.len() == 0);
        // What cannot be removed is an empty file too many, and nothing to fail for.
        match spare {
            Some(own) if empty && std::fs::remove_file(&path).is_ok() => self.spare().push(Spare { path: own, file }),
            Some(own) => drop(std::fs::remove_file(own)),
            None if empty => {
                let own = path.with_file_name(format!(".spare-{}", path.file_name().unwrap_or_default()));
                match std::fs::rename(&path, &own) {
                    Ok(()) => self.spare().push(Spare { path: own, file }),
                    Err(_) => drop(std::fs::remove_file(&path)),
                }
            }
            None => {}
        }
    }

    fn spare(&self) -> std::sync::MutexGuard<'_, Vec<Spare>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LogFiles {
    fn drop(&mut self) {
        for spare in self.spare().drain(..) {
            let _ = std::fs::remove_file(spare.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn names(folder: &Utf8Path) -> Vec<String> {
        let mut names: Vec<_> =
            folder.read_dir_utf8().unwrap().map(|entry| entry.unwrap().file_name().to_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn logs_that_say_something_stay_and_no_other_file_does() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let logs = LogFiles::default();
        // Two at a time, of which each third one speaks.
        for pair in (0..8).collect::<Vec<_>>().chunks(2) {
            let open =
                pair.iter().map(|n| (n, logs.open(&folder.join(format!("{n}.log"))).unwrap())).collect::<Vec<_>>();
            for (n, log) in open {
                assert!(folder.join(format!("{n}.log")).exists());
                if n % 3 == 0 {
                    writeln!(log.file.file(), "of {n}").unwrap();
                }
                logs.close(log);
            }
        }
        drop(logs);
        assert_eq!(names(folder), ["0.log", "3.log", "6.log"]);
        for n in [0, 3, 6] {
            assert_eq!(fs_err::read_to_string(folder.join(format!("{n}.log"))).unwrap(), format!("of {n}\n"));
        }
    }

    #[test]
    fn a_log_that_is_there_is_added_to() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let (logs, path) = (LogFiles::default(), folder.join("1.log"));
        fs_err::write(&path, "before\n").unwrap();
        logs.close(logs.open(&folder.join("0.log")).unwrap());
        let log = logs.open(&path).unwrap();
        writeln!(log.file.file(), "after").unwrap();
        logs.close(log);
        assert_eq!(fs_err::read_to_string(&path).unwrap(), "before\nafter\n");
    }
}
