//! The page of a run, in a headless Chromium: what it shows, with keys and with the mouse, and that it keeps up with many events.

#[path = "report/chromium.rs"]
mod chromium;

use std::time::{Duration, Instant};

use chromium::Page;
use scenarios::report::Verdict;
use scenarios::world::Told;

/// Writes a page and opens it; none without a browser.
fn open(directory: &tempfile::TempDir, html: &str) -> Option<Page> {
    let file = directory.path().join("report.html");
    std::fs::write(&file, html).unwrap();
    Page::open(&file)
}

/// Keeps a picture, for whoever wants to look at what a test saw: EBBTIDE_PICTURES=DIR.
fn keep(page: &mut Page, name: &str) {
    if let Some(directory) = std::env::var_os("EBBTIDE_PICTURES") {
        let file = std::path::Path::new(&directory).join(format!("{name}.png.base64"));
        std::fs::write(file, page.picture()).unwrap();
    }
}

/// A run that shows much: a pod moves from a node that lost its power, while AWS refuses and the attacher is down.
fn incident() -> String {
    let text = r#"
apiVersion: ebbtide.dev/v1alpha1
kind: Scenario
metadata: {name: incident}
spec:
  description: A node loses power under a pod <b>with</b> a volume
  invariants: [no-leak]
  steps:
  - name: a pod with a claim
    try:
    - apply:
        manifests: |
          apiVersion: storage.k8s.io/v1
          kind: StorageClass
          metadata: {name: sc}
          provisioner: ebs.csi.aws.com
          volumeBindingMode: WaitForFirstConsumer
          ---
          apiVersion: v1
          kind: PersistentVolumeClaim
          metadata: {name: data}
          spec: {accessModes: [ReadWriteOnce], storageClassName: sc, resources: {requests: {storage: 1Gi}}}
          ---
          apiVersion: v1
          kind: Pod
          metadata: {name: app}
          spec:
            containers: [{name: c, image: busybox, command: [sleep, infinity], volumeMounts: [{name: v, mountPath: /data}]}]
            volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]
    - wait: {for: {kind: Pod, name: app, condition: Ready}, timeout: 3m}
    - assert: {resource: {kind: Pod, metadata: {name: app}}, capture: {node: spec/nodeName}}
  - name: trouble
    try:
    - fault: {actionId: "local:crash", actor: attacher}
    - fault: {actionId: "aws:ec2:stop-instances", node: "${node}"}
    - sleep: 7m
    - fault: {actionId: "local:clear"}
    - delete: {kind: Pod, name: app, gracePeriodSeconds: 0, timeout: 0s}
    - sleep: 10m
"#;
    let scenario = scenarios::language::parse("incident.yaml", text).unwrap();
    let (report, story) = scenarios::world::run_told(&scenario, 4);
    assert!(report.steps.iter().all(|step| step.verdict == Verdict::Passed), "{}", report.to_text());
    assert!(!report.passed, "the claim is left: {}", report.to_text());
    scenarios::report::html::page(&scenario, &story, &report, Some("ebbtide run incident.yaml --seed 4"))
}

#[test]
fn the_page_of_an_incident_is_read_with_keys_and_mouse() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mut page) = open(&directory, &incident()) else { return };
    page.wait("document.querySelectorAll('.row').length > 5");
    assert!(page.text("header").contains("A node loses power under a pod <b>with</b> a volume"));
    assert!(page.text("header code").contains("ebbtide run incident.yaml --seed 4"));
    // A page of a failed run begins at the violation.
    page.wait("document.querySelector('#detail h3').textContent === 'violation'");
    assert!(page.text("#detail").contains("no-leak"));
    keep(&mut page, "violation");

    // With keys: the faults one after the other, then the timeline's lanes and events.
    page.press("f");
    page.wait("document.querySelector('#detail h3').textContent === 'fault'");
    assert!(page.text("#detail").contains("local:crash actor=attacher"));
    assert!(page.text("#said").contains("local:crash"), "a screen reader is told");
    page.press("f");
    page.wait("document.querySelector('#detail').textContent.includes('aws:ec2:stop-instances')");
    page.value("document.getElementById('chart').focus()");
    page.press("Home");
    page.wait("document.querySelector('#detail .when').textContent.includes('event 1 of')");
    page.press("ArrowRight");
    page.wait("document.querySelector('#detail .when').textContent.includes('event 2 of')");
    for key in ["+", "+", "ArrowDown", "0", "z"] {
        page.press(key);
    }

    // The search leaves the pod's lane; its object follows from what changed.
    page.press("/");
    for key in "pod default/app running".chars() {
        page.press(&key.to_string());
    }
    page.wait("document.querySelectorAll('.row').length > 0 && [...document.querySelectorAll('.row .lane')].every(lane => lane.textContent.includes('default/app'))");
    page.press("Enter");
    page.wait("document.querySelector('#detail h3').textContent === 'Pod default/app'");
    page.wait("document.querySelector('#detail details pre').textContent.includes('\"phase\": \"Running\"')");
    assert!(page.text("#detail").contains("\"claimName\": \"data\""));
    keep(&mut page, "pod");

    // With the mouse: where the selected event was is where a click selects it again.
    let chosen = page.text("#detail .when");
    page.wait("document.getElementById('chart').dataset.at");
    let at = page.value("document.getElementById('chart').dataset.at");
    let (x, y) = at.as_str().and_then(|at| at.split_once(' ')).unwrap();
    let corner = page.value("(({x, y}) => [x, y])(document.getElementById('chart').getBoundingClientRect())");
    let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
    let (x, y) = (x + corner[0].as_f64().unwrap(), y + corner[1].as_f64().unwrap());
    page.value("document.getElementById('words').focus()");
    page.press("End");
    page.press("Escape");
    assert_ne!(page.text("#detail .when"), "");
    page.click(x, y);
    page.wait("document.querySelector('#detail h3').textContent === 'Pod default/app'");
    assert!(page.text("#detail .when").contains("event"), "{chosen}");
    page.zoom(x, y, -100.0);

    // Light and dark.
    let ground = page.value("getComputedStyle(document.body).backgroundColor");
    page.value("document.getElementById('theme').click()");
    assert_ne!(page.value("getComputedStyle(document.body).backgroundColor"), ground);
    keep(&mut page, "other");
    assert_eq!(page.requests(), Vec::<&str>::new(), "the page needs nothing from anywhere");
    assert_eq!(page.complaints, Vec::<String>::new());
}

#[test]
fn twenty_thousand_events_are_no_trouble() {
    let scenario = scenarios::load("e03").unwrap();
    let (report, _) = scenarios::world::run_told(&scenario, 3);
    let states = ["Pending", "Running", "Failed", ""];
    let story: Vec<Told> = (0..20_000u64)
        .map(|n| Told {
            at: n * 50_000,
            lane: format!("Pod default/app-{}", n % 300),
            what: format!("changed, number {n}"),
            state: Some(states[(n / 300 % 4) as usize].into()),
            failed: n % 97 == 0,
            object: None,
        })
        .collect();
    let html = scenarios::report::html::page(&scenario, &story, &report, None);
    let directory = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    let Some(mut page) = open(&directory, &html) else { return };
    page.wait("document.querySelectorAll('.row').length > 5");
    assert!(begin.elapsed() < Duration::from_secs(30), "shown after {:?}", begin.elapsed());
    assert!(page.text("#count").contains("20000 events"));
    let rows = page.value("document.querySelectorAll('.row').length");
    assert!(rows.as_u64().unwrap() < 200, "only what is seen is in the document, not {rows} lines");
    page.value("document.getElementById('chart').focus()");
    page.press("End");
    page.wait("document.querySelector('.row[aria-selected=true]').textContent.includes('number 19999')");
    // Frames, not seconds: ten zooms are drawn one after the other.
    let drawn = "(async () => { const begin = performance.now(); for (let n = 0; n < 10; n++) { document.querySelector('[data-do=in]').click(); \
                 await new Promise(requestAnimationFrame); } window.drawn = performance.now() - begin; })()";
    page.value(drawn);
    page.wait("window.drawn > 0");
    let millis = page.value("window.drawn").as_f64().unwrap();
    eprintln!("ten zooms with 20,000 events: {millis:.0} ms");
    assert!(millis < 5000.0, "ten zooms took {millis} ms");
    keep(&mut page, "many");
    assert_eq!(page.complaints, Vec::<String>::new());
}
