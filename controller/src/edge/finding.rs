//! What people should know about an Ingress: one word for the Event, the page and the log, and a sentence that says what to do.

/// In order of weight.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Finding {
    pub(crate) word: Word,
    /// What, whom, and the next step.
    pub(crate) message: String,
}

/// Each is the reason of an Event on the Ingress, and explained in docs/ingress.md.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Word {
    /// The whole Ingress is refused: it asks for a protection that we would leave out.
    Refused,
    /// A host belongs to another namespace.
    HostTaken,
    /// A field or an annotation has a value that means nothing.
    BadValue,
    /// A backend that is not allowed.
    BackendRefused,
    /// A backend that is not there, or has no endpoint.
    NoBackend,
    /// We may not read the Secret.
    MissingRight,
    /// A host is to have HTTPS and has no certificate.
    NoCertificate,
    /// The same, and it is under way.
    BeingOrdered,
    /// A certificate has little of its life left, and is not renewed.
    NotRenewed,
    /// Orders fail while an older certificate is served.
    OrderFailed,
    /// What is served is of an authority's staging environment.
    StagingCertificate,
    /// A certificate is asked for by annotation, and a Secret of the user's is served.
    SecretFirst,
    /// An annotation that we do not know.
    NotHonoured,
}

impl Word {
    /// An Event's reason, and the word of the pages.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Refused => "Refused",
            Self::HostTaken => "HostTaken",
            Self::BadValue => "BadValue",
            Self::BackendRefused => "BackendRefused",
            Self::NoBackend => "NoBackend",
            Self::MissingRight => "MissingRight",
            Self::NoCertificate => "NoCertificate",
            Self::BeingOrdered => "BeingOrdered",
            Self::NotRenewed => "NotRenewed",
            Self::OrderFailed => "OrderFailed",
            Self::StagingCertificate => "StagingCertificate",
            Self::SecretFirst => "SecretFirst",
            Self::NotHonoured => "NotHonoured",
        }
    }
}

impl Finding {
    pub(crate) fn new(word: Word, message: impl Into<String>) -> Self {
        Self { word, message: message.into() }
    }
}
