//! Security groups and their rules.

use super::command::RuleChange;
use super::ids::Kind;
use super::network::{Peer, Rule, SecurityGroup};
use super::records::Changed;
use super::{Effect, Reject, Reply, State, TagItem, Tags, tags};

/// The characters that EC2 allows in a group's name and description.
fn allowed(text: &str) -> bool {
    text.len() <= 255 && text.chars().all(|c| c.is_ascii_alphanumeric() || " ._-:/()#,@[]+=&;{}!$*".contains(c))
}

impl State {
    pub(super) fn plan_security_group(&self, name: &str, description: &str, vpc: Option<&str>, tags: &[TagItem]) -> Result<(), Reject> {
        if name.is_empty() || !allowed(name) || name.starts_with("sg-") {
            return Err(Reject::InvalidParameterValue {
                message: format!(
                    "Value ({name}) for parameter GroupName is invalid. Character sets beyond ASCII are not supported, and names may not start with sg-."
                ),
            });
        }
        if description.is_empty() {
            return Err(Reject::MissingParameter("GroupDescription".to_owned()));
        }
        if !allowed(description) {
            return Err(Reject::InvalidParameterValue {
                message: format!(
                    "Value ({description}) for parameter GroupDescription is invalid. Character sets beyond ASCII are not supported."
                ),
            });
        }
        if let Some(vpc) = vpc.filter(|vpc| **vpc != *self.network.vpc.id) {
            return Err(Reject::NotFound { kind: Kind::Vpc, ids: vec![vpc.to_owned()] });
        }
        if self.network.security_groups.values().any(|group| group.name == name) {
            return Err(Reject::DuplicateGroup { name: name.to_owned(), vpc: self.network.vpc.id.clone() });
        }
        tags::check_new(tags)
    }

    pub(super) fn create_security_group(
        &mut self,
        name: &str,
        description: &str,
        vpc: Option<&str>,
        new_tags: &[TagItem],
        out: &mut Vec<Effect>,
    ) -> Result<(), Reject> {
        self.plan_security_group(name, description, vpc, new_tags)?;
        let id = self.fresh_id("sg");
        let all = Rule {
            id: self.fresh_id("sgr"),
            protocol: "-1".to_owned(),
            ports: None,
            peer: Peer::Cidr("0.0.0.0/0".to_owned()),
            description: None,
        };
        let group = SecurityGroup {
            id: id.clone(),
            vpc_id: self.network.vpc.id.clone(),
            name: name.to_owned(),
            description: description.to_owned(),
            ingress: Vec::new(),
            egress: vec![all],
            tags: tags::collect(new_tags),
        };
        self.network.security_groups.insert(id.clone(), group);
        self.dirty.insert(Changed::SecurityGroup(id.clone()));
        out.push(Effect::Reply(Reply::SecurityGroup { id }));
        Ok(())
    }

    pub(super) fn plan_delete_security_group(&self, id: &str) -> Result<(), Reject> {
        let group = self.find_group(Some(id), None)?;
        if group.name == "default" {
            return Err(Reject::CannotDeleteDefaultGroup { group: id.to_owned() });
        }
        let by_rule = self.network.security_groups.values().any(|other| {
            let names = |rule: &Rule| rule.peer == Peer::Group(id.to_owned());
            other.id != id && (other.ingress.iter().any(names) || other.egress.iter().any(names))
        });
        let by_interface = self.instances.values().any(|instance| instance.interface.security_groups.iter().any(|used| used == id));
        if by_rule || by_interface {
            return Err(Reject::GroupInUse { group: id.to_owned() });
        }
        Ok(())
    }

    pub(super) fn delete_security_group(&mut self, id: &str, out: &mut Vec<Effect>) -> Result<(), Reject> {
        self.plan_delete_security_group(id)?;
        self.network.security_groups.remove(id);
        self.dirty.insert(Changed::SecurityGroup(id.to_owned()));
        out.push(Effect::Reply(Reply::SecurityGroup { id: id.to_owned() }));
        Ok(())
    }

    fn find_group(&self, id: Option<&str>, name: Option<&str>) -> Result<&SecurityGroup, Reject> {
        let groups = &self.network.security_groups;
        match (id, name) {
            (Some(id), _) if !Kind::SecurityGroup.well_formed(id) => {
                Err(Reject::MalformedId { kind: Kind::SecurityGroup, parameter: "groupId".to_owned(), id: id.to_owned() })
            }
            (Some(id), _) => groups.get(id).ok_or_else(|| Reject::NotFound { kind: Kind::SecurityGroup, ids: vec![id.to_owned()] }),
            (None, Some(name)) => groups
                .values()
                .find(|group| group.name == name)
                .ok_or_else(|| Reject::NoSuchGroupName { name: name.to_owned(), vpc: self.network.vpc.id.clone() }),
            (None, None) => Err(Reject::MissingParameter("GroupId".to_owned())),
        }
    }

    pub(super) fn plan_authorize(&self, change: &RuleChange, ingress: bool) -> Result<String, Reject> {
        let group = self.find_group(change.group_id.as_deref(), change.group_name.as_deref())?;
        if change.rules.is_empty() {
            return Err(Reject::MissingParameter("IpPermissions".to_owned()));
        }
        let present = if ingress { &group.ingress } else { &group.egress };
        for (index, rule) in change.rules.iter().enumerate() {
            if let Peer::Group(peer) = &rule.peer {
                self.find_group(Some(peer), None)?;
            }
            if let Peer::Cidr(cidr) = &rule.peer
                && crate::world::Cidr::parse(cidr).is_none()
            {
                return Err(Reject::InvalidParameterValue { message: format!("CIDR block {cidr} is malformed") });
            }
            if present.iter().chain(&change.rules[..index]).any(|other| same(other, rule)) {
                return Err(Reject::DuplicateRule { rule: describe(rule) });
            }
        }
        Ok(group.id.clone())
    }

    pub(super) fn authorize(&mut self, change: &RuleChange, ingress: bool, out: &mut Vec<Effect>) -> Result<(), Reject> {
        let id = self.plan_authorize(change, ingress)?;
        let rules: Vec<Rule> = change.rules.iter().map(|rule| Rule { id: self.fresh_id("sgr"), ..rule.clone() }).collect();
        if let Some(group) = self.network.security_groups.get_mut(&id) {
            let list = if ingress { &mut group.ingress } else { &mut group.egress };
            list.extend(rules.iter().cloned());
            self.dirty.insert(Changed::SecurityGroup(id.clone()));
        }
        out.push(Effect::Reply(Reply::Rules { group: id, rules }));
        Ok(())
    }

    /// The group and the ids of the rules that go.
    pub(super) fn plan_revoke(&self, change: &RuleChange, ingress: bool) -> Result<(String, Vec<String>), Reject> {
        let group = self.find_group(change.group_id.as_deref(), change.group_name.as_deref())?;
        let present = if ingress { &group.ingress } else { &group.egress };
        if change.rules.is_empty() && change.rule_ids.is_empty() {
            return Err(Reject::MissingParameter("IpPermissions".to_owned()));
        }
        let mut gone = Vec::new();
        for id in &change.rule_ids {
            let rule = present.iter().find(|rule| rule.id == *id);
            gone.push(rule.ok_or_else(|| Reject::NoSuchRuleId { rule: id.clone() })?.id.clone());
        }
        for rule in &change.rules {
            let found = present.iter().find(|other| same(other, rule));
            gone.push(found.ok_or(Reject::NoSuchRule)?.id.clone());
        }
        Ok((group.id.clone(), gone))
    }

    pub(super) fn revoke(&mut self, change: &RuleChange, ingress: bool, out: &mut Vec<Effect>) -> Result<(), Reject> {
        let (id, gone) = self.plan_revoke(change, ingress)?;
        let mut rules = Vec::new();
        if let Some(group) = self.network.security_groups.get_mut(&id) {
            let list = if ingress { &mut group.ingress } else { &mut group.egress };
            (rules, *list) = std::mem::take(list).into_iter().partition(|rule| gone.contains(&rule.id));
            self.dirty.insert(Changed::SecurityGroup(id.clone()));
        }
        out.push(Effect::Reply(Reply::Rules { group: id, rules }));
        Ok(())
    }

    /// Security groups in the order of creation, the world's own first.
    pub fn security_groups(&self) -> Vec<&SecurityGroup> {
        let mut groups: Vec<_> = self.network.security_groups.values().collect();
        groups.sort_by_key(|group| self.order_of(&group.id));
        groups
    }

    /// Tags of a group, for filters.
    pub fn group_tags(&self, id: &str) -> Option<&Tags> {
        self.network.security_groups.get(id).map(|group| &group.tags)
    }
}

/// Whether two rules let the same through; id and description do not count.
fn same(a: &Rule, b: &Rule) -> bool {
    (&a.protocol, a.ports, &a.peer) == (&b.protocol, b.ports, &b.peer)
}

/// A rule as EC2's texts name it.
fn describe(rule: &Rule) -> String {
    let peer = match &rule.peer {
        Peer::Cidr(peer) | Peer::Cidr6(peer) | Peer::Group(peer) | Peer::PrefixList(peer) => peer,
    };
    match rule.ports {
        Some((first, last)) if rule.protocol != "-1" => {
            format!("peer: {peer}, {}, from port: {first}, to port: {last}, ALLOW", rule.protocol.to_uppercase())
        }
        Some(_) | None => format!("peer: {peer}, ALL, ALLOW"),
    }
}
