//! Who a process runs as, by the machine's own `/etc/passwd` and `/etc/group`. Pure: the files'
//! texts come in, so that no name service is asked and no library reads other files.

/// A resolved user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    pub home: String,
}

/// A user or group that the machine does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownIdentity {
    #[error("user {0:?} is not in the image's /etc/passwd")]
    User(String),
    #[error("group {0:?} is not in the image's /etc/group")]
    Group(String),
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Lines that do not have the right shape are skipped, as everybody else does.
fn users(passwd: &str) -> impl Iterator<Item = User<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(User { name, uid, gid, home: fields.nth(1).unwrap_or("") })
    })
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(Group { name, gid, members: fields.next().unwrap_or("") })
    })
}

/// Resolves `""`, `user`, `uid`, `user:group` or `uid:gid`. A number need not be in the files; the
/// empty text is root. Supplementary groups are given only when no group was asked for.
pub fn resolve(wanted: &str, passwd: &str, group: &str) -> Result<Identity, UnknownIdentity> {
    let (user, wanted_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (wanted, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    // Names win over numbers: a user may be called "1000".
    let found = users(passwd)
        .find(|candidate| candidate.name == user)
        .or_else(|| user.parse().ok().and_then(|uid: u32| users(passwd).find(|candidate| candidate.uid == uid)));
    let (uid, default_gid, home, name) = match &found {
        Some(found) => (found.uid, found.gid, found.home, Some(found.name)),
        None => (user.parse().map_err(|_| UnknownIdentity::User(user.to_owned()))?, 0, "", None),
    };
    let home = if home.is_empty() { "/" } else { home }.to_owned();
    if let Some(wanted_group) = wanted_group {
        let gid = groups(group)
            .find(|candidate| candidate.name == wanted_group)
            .map(|found| found.gid)
            .or_else(|| wanted_group.parse().ok())
            .ok_or_else(|| UnknownIdentity::Group(wanted_group.to_owned()))?;
        return Ok(Identity { uid, gid, groups: Vec::new(), home });
    }
    let member_of = |candidate: &Group<'_>| name.is_some_and(|name| candidate.members.split(',').any(|m| m == name));
    let groups = groups(group).filter(member_of).map(|found| found.gid).collect();
    Ok(Identity { uid, gid: default_gid, groups, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\n\nbroken line\nweb:x:33:34:Web:/srv:/bin/false\n:x:1:1::/:\nhomeless:x:50:50\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlogs:x:40:alice,web\nmore:x:41:web\nbad:x:no:web\n";

    fn resolved(wanted: &str) -> Identity {
        resolve(wanted, PASSWD, GROUP).unwrap()
    }

    #[test]
    fn nobody_in_particular_is_root() {
        assert_eq!(resolved(""), Identity { uid: 0, gid: 0, groups: vec![], home: "/root".into() });
        assert_eq!(resolve("", "", "").unwrap(), Identity { uid: 0, gid: 0, groups: vec![], home: "/".into() });
    }

    #[test]
    fn a_user_brings_its_groups_and_home() {
        let web = Identity { uid: 33, gid: 34, groups: vec![40, 41], home: "/srv".into() };
        assert_eq!(resolved("web"), web);
        assert_eq!(resolved("33"), web);
        assert_eq!(resolved("homeless").home, "/");
    }

    #[test]
    fn a_group_asked_for_is_the_only_one() {
        assert_eq!(resolved("web:logs"), Identity { uid: 33, gid: 40, groups: vec![], home: "/srv".into() });
        assert_eq!(resolved("1000:1001"), Identity { uid: 1000, gid: 1001, groups: vec![], home: "/".into() });
        assert_eq!(resolved(":logs").gid, 40);
    }

    #[test]
    fn unknown_names_are_said() {
        let error = |wanted| resolve(wanted, PASSWD, GROUP).unwrap_err().to_string();
        assert_eq!(error("nobody"), "user \"nobody\" is not in the image's /etc/passwd");
        assert_eq!(error("web:nogroup"), "group \"nogroup\" is not in the image's /etc/group");
        assert!(error("-1").contains("-1"));
    }
}
