package conf

import (
	"fmt"
	"time"
)

// Duration is a time.Duration that is written as "30s" or "2m".
type Duration time.Duration

// String returns the form of time.Duration.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes String's form.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a duration, which must have a unit.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is no duration such as 30s or 2m", text)
	}
	*d = Duration(parsed)
	return nil
}

// Secret is a text that is never printed: its holder calls Reveal.
type Secret string

const hidden = "(hidden)"

// Reveal returns the secret.
func (s Secret) Reveal() string { return string(s) }

// String hides a secret, in logs and in errors too.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return fmt.Sprintf("conf.Secret(%q)", s.String()) }

// MarshalText writes String's form, so that printed configurations hold no secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes the secret.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = Secret(text)
	return nil
}
