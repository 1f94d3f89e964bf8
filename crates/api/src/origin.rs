//! How a VM came to be: kept with what is known of it, so that it can be shown, changed and started again.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::spec::VmSpec;

/// How a VM came to be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VmOrigin {
    /// The words of the command that started it; what is not UTF-8 is shown as well as can be.
    pub words: Vec<String>,
    /// The folder in which that ran, from which relative paths are looked for.
    #[serde(with = "crate::host_path")]
    pub folder: PathBuf,
    /// What was asked for, as it would be asked for again.
    pub asked: VmSpec,
    /// The same with what Mother put beside it: kernel, initrd, disks of images, the network that images have.
    pub given: VmSpec,
    /// What its disk was started by, if that was a boot entry of the disk's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootChoice>,
}

/// The boot entry of a disk that a VM was started by. All of it is in the disk's own words.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BootChoice {
    /// What the disk's menu calls it.
    pub title: String,
    /// The file that it is in, and on which partition.
    pub source: String,
    /// The kernel, and on which partition.
    pub kernel: String,
    /// Initial RAM disks, in their order.
    pub initrds: Vec<String>,
    /// The kernel's command line, with what Mother added to it.
    pub cmdline: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_comes_back_from_its_file() {
        let origin = VmOrigin {
            words: vec!["mother".to_owned(), "run".to_owned()],
            folder: PathBuf::from("/home/größe"),
            asked: VmSpec {
                image: Some("debian".to_owned()),
                ..VmSpec::default()
            },
            given: VmSpec {
                net: Some("user".parse().unwrap()),
                forwards: vec!["8080:80".parse().unwrap()],
                ..VmSpec::default()
            },
            boot: Some(BootChoice {
                title: "Debian".to_owned(),
                source: "/boot/grub/grub.cfg on partition 1".to_owned(),
                kernel: "/vmlinuz on partition 1".to_owned(),
                initrds: Vec::new(),
                cmdline: "ro".to_owned(),
            }),
        };
        let text = serde_json::to_string(&origin).unwrap();
        assert_eq!(serde_json::from_str::<VmOrigin>(&text).unwrap(), origin);
        // What a newer version adds is passed over; what it adds to a spec is not, for it would be left out.
        let newer = text.replacen('{', r#"{"more":1,"#, 1);
        assert_eq!(serde_json::from_str::<VmOrigin>(&newer).unwrap(), origin);
        let newer = text.replacen(r#""asked":{"#, r#""asked":{"more":1,"#, 1);
        assert!(serde_json::from_str::<VmOrigin>(&newer).is_err());
    }
}
