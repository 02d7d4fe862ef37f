package main

import (
	"fmt"
	"testing"
)

func TestParseRanges(t *testing.T) {
	got, err := parseRanges([]string{"203.0.113.9/24", "2001:db8::/48"})
	if err != nil || fmt.Sprint(got) != "[203.0.113.0/24 2001:db8::/48]" {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"203.0.113.9", "203.0.113.0/33", "::ffff:203.0.113.0/120", "any", ""} {
		if got, err := parseRanges([]string{bad}); err == nil {
			t.Errorf("%q gives %v", bad, got)
		}
	}
}
