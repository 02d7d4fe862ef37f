package gateway

import "testing"

// TestNoByte: an escape of more than a byte is found where it is one.
func TestNoByte(t *testing.T) {
	for expression, want := range map[string]string{
		`/a`:                  "",
		`/\x{100}`:            `\x{100}`,
		`[\x{80}-\x{10FFFF}]`: `\x{10FFFF}`,
		`/\x{ff}\xff\x{00ff}`: "",
		`/\x{0000100}`:        `\x{0000100}`,
		`/\\x{100}`:           "",
		`/\\\x{100}`:          `\x{100}`,
		`/\Q\x{100}\E`:        "",
		`/\Q\x{100}`:          "",
		`/\Qa\E\x{100}`:       `\x{100}`,
		"/é":                  "",
	} {
		if got := noByte(expression); got != want {
			t.Errorf("%s: %q, want %q", expression, got, want)
		}
		if refused := validRegex(expression) != ""; refused != (want != "") {
			t.Errorf("%s: refused %t", expression, refused)
		}
	}
}
