//! In which order kernel modules load. Pure: what a module needs is read from its own file.

use std::collections::BTreeMap;

/// The names after `depends=` in a module file.
pub fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"depends=";
    let starts = module.windows(KEY.len()).enumerate().filter(|(at, window)| {
        // The entries of the information section are separated by zeros.
        *window == KEY && (*at == 0 || module[at - 1] == 0)
    });
    let Some((start, _)) = starts.into_iter().next() else { return Vec::new() };
    let value = &module[start + KEY.len()..];
    let value = &value[..value.iter().position(|byte| *byte == 0).unwrap_or(value.len())];
    String::from_utf8_lossy(value).split(',').filter(|name| !name.is_empty()).map(canonical).collect()
}

/// Modules are named with underscores, their files often with hyphens.
pub fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The wanted modules and all they need, each after what it needs. Unknown ones are built into the
/// kernel, as far as this can tell.
pub fn load_order(wanted: &[&str], known: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut order = Vec::new();
    for name in wanted {
        visit(&canonical(name), known, &mut Vec::new(), &mut order);
    }
    order
}

fn visit(name: &str, known: &BTreeMap<String, Vec<String>>, path: &mut Vec<String>, order: &mut Vec<String>) {
    let Some(needs) = known.get(name) else { return };
    if order.iter().any(|done| done == name) || path.iter().any(|above| above == name) {
        return;
    }
    path.push(name.to_owned());
    for need in needs {
        visit(need, known, path, order);
    }
    path.pop();
    order.push(name.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_read_from_the_file() {
        let file = b"\x7fELF\0license=GPL\0depends=virtio_ring,net-failover\0name=x\0";
        assert_eq!(depends(file), ["virtio_ring", "net_failover"]);
        assert!(depends(b"\0depends=\0").is_empty() && depends(b"softdepends=a\0").is_empty());
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let known = [("net", "ring,fail"), ("fail", "base"), ("ring", ""), ("base", "ring"), ("loop", "loop")];
        let known = known
            .map(|(name, needs)| {
                (name.to_owned(), needs.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect())
            })
            .into_iter()
            .collect();
        assert_eq!(load_order(&["net", "ring", "built-in", "loop"], &known), ["ring", "base", "fail", "net", "loop"]);
    }
}
