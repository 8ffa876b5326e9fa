use super::names;
use crate::diagnostic::Sources;
use crate::manifest::Manifest;

#[test]
fn what_would_take_too_long_is_refused() {
    let keys: String = (0..40).map(|i| format!("k{i} = [1]\n")).collect();
    insta::assert_snapshot!(names(&format!("[stages.a]\nkind = 'x'\n[stages.a.matrix]\n{keys}")), @"
    error[manifest::too-large]: a stage is swept along 40 axes, and at most 32 can be
      --> m.toml:36:1
       |
    36 | k32 = [1]
       | ^^^ one too many
       |
       = help: sweep fewer parameters, or whole tables of them
    ");
    let entries = "{ x = 1, y = 2 }, ".repeat(2000);
    insta::assert_snapshot!(names(&format!(
        "[stages.a]\nkind = 'x'\nmatrix.x = {{ count = 50000 }}\nexclude = [\n{entries}\n]\n[stages.b]\nkind = 'x'\nmatrix.x = {{ count = 90000 }}\n"
    )), @"
    error[manifest::too-large]: the sweeps of this manifest are too large to expand: `a` would need 200000000 steps more
     --> m.toml:1:9
      |
    1 | [stages.a]
      |         ^
      |
      = help: sweep fewer values, or gather fewer cells at a time; a manifest may have 100000 nodes
    ");
    let gather = "[stages.b]\nkind = 'x'\nmatrix.x = { count = 40000 }\n".to_owned()
        + &(0..100).map(|i| format!("[stages.c{i}]\nkind = 'x'\ninputs.x = 'b[*]'\n")).collect::<String>();
    insta::assert_snapshot!(names(&gather), @"
    error[manifest::too-large]: the sweeps of this manifest are too large to expand: `b[*]` would need 80000 steps more
       --> m.toml:129:12
        |
    129 | inputs.x = 'b[*]'
        |            ^^^^^^
        |
        = help: sweep fewer values, or gather fewer cells at a time; a manifest may have 100000 nodes
    ");
    let many =
        format!("[stages.b]\nkind = 'x'\nmatrix.x = [1]\n[stages.c]\nkind = 'x'\ninputs.x = [{}]", "'b', ".repeat(65));
    assert!(names(&many).contains("by more than 64 references"));
}

/// A small sweep: axes with their numbers of values, and what two more stages take.
fn sweep() -> impl proptest::strategy::Strategy<Value = (Vec<usize>, usize, &'static str)> {
    use proptest::prelude::*;
    let reference = prop::sample::select(vec!["train", "train[*]", "train[a0=*]", "train[a0=0]", "train[a0=0,*]"]);
    (prop::collection::vec(1usize..4, 1..4), 1usize..3, reference)
}

proptest::proptest! {
    /// The number of nodes is known without making them, and every wire leads to a node.
    #[test]
    fn cells_are_as_many_as_their_axes_say((sizes, own, reference) in sweep()) {
        let axes: String = sizes.iter().enumerate().map(|(axis, size)| format!("a{axis} = {{ count = {size} }}\n")).collect();
        let text = format!(
            "[stages.train]\nkind = 'x'\n[stages.train.matrix]\n{axes}\n[stages.eval]\nkind = 'x'\ninputs.model = '{reference}'\nmatrix.b = {{ count = {own} }}\n"
        );
        let mut sources = Sources::default();
        let (manifest, _) = Manifest::parse(&mut sources, "m.toml", &text).unwrap();
        let cells: usize = sizes.iter().product();
        let groups = match reference {
            "train" => cells,
            "train[*]" | "train[a0=0,*]" => 1,
            _ => cells / sizes[0],
        };
        let of = |origin: &str| manifest.stages.iter().filter(|node| &*node.origin == origin).count();
        proptest::prop_assert_eq!(of("train"), cells);
        proptest::prop_assert_eq!(of("eval"), groups * own);
        let names: std::collections::HashSet<&str> = manifest.stages.iter().map(|node| node.name.name.as_str()).collect();
        proptest::prop_assert_eq!(names.len(), manifest.stages.len());
        for word in manifest.stages.iter().flat_map(|node| &node.inputs).flat_map(|input| &input.from) {
            proptest::prop_assert!(names.contains(word.text.as_str()), "{}", word.text);
        }
    }
}
