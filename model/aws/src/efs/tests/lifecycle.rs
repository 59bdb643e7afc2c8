//! The rules of a life cycle configuration.

use super::*;

#[test]
fn each_policy_is_one_transition_and_each_transition_comes_once() {
    let ia = |rule: &str| LifecyclePolicy { to_ia: Some(rule.into()), ..LifecyclePolicy::default() };
    let primary = |rule: &str| LifecyclePolicy { to_primary: Some(rule.into()), ..LifecyclePolicy::default() };
    let archive = |rule: &str| LifecyclePolicy { to_archive: Some(rule.into()), ..LifecyclePolicy::default() };
    let mut bench = Bench::new(Profile::Instant);
    let id = bench.file_system("a");
    let mut put = |policies: &[LifecyclePolicy]| {
        bench.command(Command::PutLifecycleConfiguration { id: id.clone(), policies: policies.to_vec() }).is_ok()
    };
    let all = [ia("AFTER_7_DAYS"), primary("AFTER_1_ACCESS"), archive("AFTER_90_DAYS")];
    assert!(put(&all) && put(&[]), "three at most, or none");
    assert!(!put(&[all.to_vec(), vec![ia("AFTER_1_DAY")]].concat()));
    assert!(!put(&[LifecyclePolicy::default()]), "none in a policy");
    assert!(!put(&[LifecyclePolicy { to_ia: Some("AFTER_7_DAYS".into()), ..archive("AFTER_90_DAYS") }]), "two in a policy");
    assert!(!put(&[ia("AFTER_7_DAYS"), ia("AFTER_14_DAYS")]), "one twice");
    assert!(!put(&[ia("AFTER_8_DAYS")]) && !put(&[ia("AFTER_1_ACCESS")]) && !put(&[primary("AFTER_7_DAYS")]));
}
