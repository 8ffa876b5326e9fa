//! The user's keys in `~/.aws/credentials`, where the environment has none: `object_store` does not read that file.
//!
//! Everything else (the environment, web identities, roles of containers and machines) is left to it.

/// What a profile of the file says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) token: Option<String>,
}

/// The keys of `AWS_PROFILE` (else `default`); `None` where the environment or the machine has to say it.
pub(super) fn of_user() -> Result<Option<Keys>, String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if variable("AWS_ACCESS_KEY_ID").is_some() || variable("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() {
        return Ok(None);
    }
    let home = || variable("HOME").map(|home| format!("{home}/.aws/credentials"));
    let Some(path) = variable("AWS_SHARED_CREDENTIALS_FILE").or_else(home) else { return Ok(None) };
    let profile = variable("AWS_PROFILE");
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(None) };
    let found = find(&text, profile.as_deref().unwrap_or("default"));
    match (found, profile) {
        (None, Some(profile)) => Err(format!("{path} has no profile `{profile}` with a key (AWS_PROFILE names it)")),
        (found, _) => Ok(found),
    }
}

/// The keys of one section of the file.
fn find(text: &str, profile: &str) -> Option<Keys> {
    let (mut inside, mut id, mut secret, mut token) = (false, None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            inside = section.trim() == profile;
        } else if inside && let Some((name, value)) = line.split_once('=') {
            let value = Some(value.trim().to_owned());
            match name.trim() {
                "aws_access_key_id" => id = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    Some(Keys { id: id?, secret: secret?, token })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_has_its_own_keys() {
        let text = "# mine\n[default]\naws_access_key_id = A\naws_secret_access_key=B==\n\n[lab]\nregion = x\n\
                    aws_access_key_id=C\naws_secret_access_key = D\naws_session_token = E\n[broken]\naws_access_key_id=F\n";
        let keys = |id: &str, secret: &str, token: Option<&str>| {
            Some(Keys { id: id.into(), secret: secret.into(), token: token.map(str::to_owned) })
        };
        assert_eq!(find(text, "default"), keys("A", "B==", None));
        assert_eq!(find(text, "lab"), keys("C", "D", Some("E")));
        assert_eq!(find(text, "broken"), None);
        assert_eq!(find(text, "none"), None);
    }
}
