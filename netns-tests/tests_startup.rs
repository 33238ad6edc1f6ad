crate::trials! { both families: ; once: }
