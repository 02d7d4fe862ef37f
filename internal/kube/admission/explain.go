package admission

import (
	"fmt"
	"regexp"
	"strings"
)

var (
	quotedPath = regexp.MustCompile(`(?:unknown|duplicate) field "([^"]*)"`)
	goTypeErr  = regexp.MustCompile(`json: cannot unmarshal (\S+) into Go (?:struct field [^.\s]+\.(\S+)|value) of type (\S+)`)
)

// ExplainStrict takes an error of a strict decoder apart. It returns the path of the field, empty if the error names
// none, and the reason in terms of a manifest instead of Go types.
func ExplainStrict(err error) (path, reason string) {
	text := err.Error()
	if m := quotedPath.FindStringSubmatch(text); m != nil {
		return m[1], text
	}
	if m := goTypeErr.FindStringSubmatch(text); m != nil {
		return m[2], fmt.Sprintf("%s: is %s, must be %s", m[2], jsonType(m[1]), goType(m[3]))
	}
	return "", text
}

// jsonType is a type of JSON with its article.
func jsonType(t string) string {
	if t == "object" || t == "array" {
		return "an " + t
	}
	return "a " + t
}

func goType(t string) string {
	switch {
	case strings.HasPrefix(t, "[]"):
		return "a list"
	case strings.HasPrefix(t, "map["):
		return "a map"
	case strings.Contains(t, "int"):
		return "a whole number"
	case t == "string", t == "bool":
		return "a " + t
	}
	return "an object"
}
