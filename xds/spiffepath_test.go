package xds

import (
	"regexp"
	"testing"
)

func TestSPIFFEPath(t *testing.T) {
	re := regexp.MustCompile("^(?:" + spiffePath + ")$")
	for path, ok := range map[string]bool{
		"/ns/bank/sa/client": true, "/ns/a.b/sa/c-d_e": true, "/...": true, "/.a/..b/a..": true, "/a": true,
		"": false, "/": false, "a": false, "//a": false, "/a/": false, "/.": false, "/..": false, "/ns/bank/../tenant": false, "/a/./b": false,
		"/a%00": false, "/a,b": false, "/a?b": false, "/a\n": false, "/a@b": false, "/ä": false,
	} {
		if re.MatchString(path) != ok {
			t.Errorf("%q: %t", path, !ok)
		}
	}
}
