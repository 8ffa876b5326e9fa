//! `sepia new NAME`: a manifest to start from, with what it needs to run at once.
//!
//! The templates are the manifests that ship, so that tests of those are tests of these.

use std::fmt::Write as _;

use camino::{Utf8Path, Utf8PathBuf};

use super::{
    args,
    exit::{Exit, Failure},
    output,
};
use crate::{schema::manifest_schema, stage::Registry};

/// A manifest to start from.
struct Template {
    name: &'static str,
    about: &'static str,
    /// The name of the manifest that it is, as that says it.
    written: &'static str,
    text: &'static str,
    /// Scripts that it uses: path beside the manifest, and text.
    scripts: &'static [(&'static str, &'static str)],
}

const TEMPLATES: &[Template] = &[
    Template {
        name: "training",
        about: "train a small language model, evaluate it, measure the ranks of its weights",
        written: "quickstart",
        text: include_str!("../../../manifests/quickstart.toml"),
        scripts: &[],
    },
    Template {
        name: "ranks",
        about: "follow the ranks of the weights through a training",
        written: "rank-evolution",
        text: include_str!("../../../manifests/rank-evolution.toml"),
        scripts: &[],
    },
    Template {
        name: "seeds",
        about: "compare two methods over several seeds, with an interval for the difference",
        written: "significance",
        text: include_str!("../../../manifests/significance.toml"),
        scripts: &[("scripts/paired.awk", include_str!("../../../manifests/scripts/paired.awk"))],
    },
    Template {
        name: "script",
        about: "your own program as a stage, swept over a parameter",
        written: "script",
        text: SCRIPT,
        scripts: &[],
    },
];

/// Where the shipped manifests have their texts, and where a new one has its own.
const SHIPPED_TEXTS: &str = "data/austen";
const TEXTS: &str = "texts";
const EXAMPLE: &str = include_str!("../../../manifests/data/austen/persuasion.txt");

const SCRIPT: &str = r#"#:schema sepia.schema.json

# Your own program as a stage, once for each value of a parameter, and another that takes all results.
#
#   sepia run manifests/script.toml
#
# A stage runs again when its command, its files, its parameters or the bytes of its inputs change, and only then.

name = "script"

[stages.count]
kind = "command"
# No shell is involved unless you name one. Placeholders: ${inputs.PORT}, ${outputs.NAME}, ${params.NAME}, ${seed}.
argv = ["sh", "-c", "seq ${params.n} > ${outputs.numbers}"]
outputs = { numbers = "numbers.txt" }
params = { n = 10 }
matrix = { "params.n" = [10, 100, 1000] }

[stages.sum]
kind = "command"
inputs = { all = "count[*]" }
argv = ["sh", "-c", "wc -l ${inputs.all} > ${outputs.table}"]
outputs = { table = "table.txt" }

[profile.smoke.stages.count]
matrix = { "params.n" = [1, 2] }
"#;

pub(super) fn new(registry: Registry, args: &args::New) -> Result<Exit, Failure> {
    let Some(name) = args.name.as_ref().filter(|_| !args.list) else {
        output::data(&list());
        return Ok(Exit::Fine);
    };
    let template = TEMPLATES.iter().find(|one| one.name == args.template).ok_or_else(|| unknown(&args.template))?;
    let place = Place::of(name)?;
    let mut files = vec![(place.manifest.clone(), template.fitted(&place))];
    let mut beside = |path: &str, text: String| {
        let path = place.folder.join(path);
        // What is there is the author's.
        if !path.exists() {
            files.push((path, text));
        }
    };
    beside("sepia.schema.json", format!("{:#}\n", manifest_schema(registry)));
    template.scripts.iter().for_each(|(path, text)| beside(path, (*text).to_owned()));
    if template.text.contains(SHIPPED_TEXTS) && !place.folder.join(TEXTS).exists() {
        files.push((place.folder.join(TEXTS).join("persuasion.txt"), EXAMPLE.to_owned()));
    }
    for (path, text) in &files {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_str().is_empty()) {
            fs_err::create_dir_all(folder)?;
        }
        create(path, text)?;
        output::note(&format!("{:>12} {path}", "Created"));
    }
    let manifest = &place.manifest;
    output::note(&format!(
        "{:>12} `sepia run {manifest}` runs it; `sepia plan {manifest}` says what that would do",
        ""
    ));
    Ok(Exit::Fine)
}

/// Never over a file that is there, be it made a moment ago.
fn create(path: &Utf8Path, text: &str) -> Result<(), Failure> {
    let made = fs_err::File::options().write(true).create_new(true).open(path);
    match made {
        Ok(mut file) => Ok(std::io::Write::write_all(&mut file, text.as_bytes())?),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(exists(path)),
        Err(error) => Err(error.into()),
    }
}

fn exists(path: &Utf8Path) -> Failure {
    Failure::usage("new::exists", format!("{path} exists already")).help("choose another name, or move it away first")
}

/// Where the manifest will be, and what it is called.
struct Place {
    folder: Utf8PathBuf,
    manifest: Utf8PathBuf,
    name: String,
}

impl Place {
    fn of(written: &Utf8Path) -> Result<Self, Failure> {
        let file = written.file_name().unwrap_or_default();
        let name = file.strip_suffix(".toml").unwrap_or(file).to_owned();
        let fits = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.starts_with('.') || !name.chars().all(fits) {
            return Err(Failure::usage("new::name", format!("`{written}` does not do as the name of an experiment"))
                .help("letters, digits, `-` and `_`: for example `sepia new ranks-of-galore`"));
        }
        let folder = written.parent().unwrap_or(Utf8Path::new("")).to_owned();
        let manifest = folder.join(format!("{name}.toml"));
        if manifest.exists() {
            return Err(exists(&manifest));
        }
        Ok(Self { folder, manifest, name })
    }
}

impl Template {
    /// The text with the new name and folder of texts in it.
    fn fitted(&self, place: &Place) -> String {
        self.text
            .replace(&format!("manifests/{}.toml", self.written), place.manifest.as_str())
            .replace(&format!("\nname = \"{}\"\n", self.written), &format!("\nname = \"{}\"\n", place.name))
            .replace(SHIPPED_TEXTS, TEXTS)
    }
}

fn list() -> String {
    let width = TEMPLATES.iter().map(|template| template.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for template in TEMPLATES {
        let _ = writeln!(out, "{:width$}  {}", template.name, template.about);
    }
    out.push_str("\n`sepia new NAME --template TEMPLATE` writes one; `training` is the default.\n");
    out
}

fn unknown(name: &str) -> Failure {
    let failure = Failure::usage("new::template", format!("there is no template `{name}`"));
    match crate::diagnostic::nearest(name, TEMPLATES.iter().map(|template| template.name)) {
        Some(near) => failure.help(format!("did you mean `{near}`?")),
        None => failure.help("`sepia new --list` says what there is"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{diagnostic::Sources, manifest::Manifest};

    #[test]
    fn templates_are_manifests_under_the_new_name() {
        for template in TEMPLATES {
            let place = Place { folder: "a".into(), manifest: "a/mine.toml".into(), name: "mine".to_owned() };
            let text = template.fitted(&place);
            assert!(!text.contains(template.written) || template.written == "script", "{text}");
            assert!(!text.contains("manifests/") && text.contains("sepia run a/mine.toml"), "{text}");
            let (manifest, warnings) = Manifest::parse(&mut Sources::default(), "a/mine.toml", &text).unwrap();
            assert_eq!((manifest.name.as_str(), warnings), ("mine", vec![]), "{}", template.name);
        }
    }

    #[test]
    fn names_become_files_or_are_refused() {
        let of = |name: &str| Place::of(Utf8Path::new(name)).map(|place| place.manifest.into_string());
        assert_eq!(of("x").unwrap(), "x.toml");
        assert_eq!(of("studies/x-1.toml").unwrap(), "studies/x-1.toml");
        for bad in ["", "..", ".toml", "a b", "a\"b", "x/.."] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
