//! Ports: the named, typed ends of the wires between stages.

/// What travels over a wire. Two ports fit when their types are equal, or when the input takes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortType(pub &'static str);

impl PortType {
    /// Fits every output: bytes whose meaning the consumer alone knows.
    pub const ANY: PortType = PortType("any");

    /// Whether an output of type `from` can feed an input of this type.
    #[must_use]
    pub fn accepts(self, from: PortType) -> bool {
        self == PortType::ANY || from == PortType::ANY || self == from
    }
}

/// One end of a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Name in the manifest: `inputs = { data = "corpus" }`.
    pub name: &'static str,
    /// What travels.
    pub ty: PortType,
    /// An input that may be left out.
    pub optional: bool,
    /// An input that takes a list.
    pub many: bool,
    /// One line for the reference.
    pub about: &'static str,
}

impl Port {
    /// A required port.
    #[must_use]
    pub const fn new(name: &'static str, ty: PortType, about: &'static str) -> Self {
        Self { name, ty, optional: false, many: false, about }
    }

    /// The same port, which may be left unconnected.
    #[must_use]
    pub const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// The same port, which takes any number of wires.
    #[must_use]
    pub const fn many(mut self) -> Self {
        self.many = true;
        self
    }
}
