//! Writes a memory disk in the form the kernel unpacks: a `newc` archive. Pure.

/// What an entry is.
pub enum Entry<'d> {
    Folder,
    File { executable: bool, data: &'d [u8] },
    Link { target: &'d str },
}

/// An archive being written. Folders come before what is in them.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds an entry; the path has no leading slash.
    pub fn add(&mut self, path: &str, entry: &Entry<'_>) {
        let (mode, data) = match entry {
            Entry::Folder => (0o040_755, &[][..]),
            Entry::File { executable: true, data } => (0o100_755, *data),
            Entry::File { executable: false, data } => (0o100_644, *data),
            Entry::Link { target } => (0o120_777, target.as_bytes()),
        };
        self.entries += 1;
        self.write(self.entries, mode, path, data);
    }

    fn write(&mut self, inode: u32, mode: u32, path: &str, data: &[u8]) {
        // Sizes are far below the 4 GiB that the format can say.
        let (size, name_size) = (data.len() as u32, path.len() as u32 + 1);
        let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.write(0, 0, "TRAILER!!!", &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_ended() {
        let mut archive = Archive::default();
        archive.add("bin", &Entry::Folder);
        archive.add("bin/x", &Entry::File { executable: true, data: b"hello" });
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 3);
        let file = text.find("bin/x\0").unwrap();
        let header = &text[file - 110..file];
        assert_eq!(&header[14..22], "000081ed");
        assert_eq!(&header[54..62], "00000005");
        assert!(text.trim_end_matches('\0').ends_with("TRAILER!!!"));
    }
}
