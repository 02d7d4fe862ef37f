package access

import (
	"fmt"
	"testing"
	"time"
)

// TestRefusalsAreBounded: an address that sends made-up tokens is no longer reviewed, and neither other addresses nor an agent
// with the same address lose by it.
func TestRefusalsAreBounded(t *testing.T) {
	var r Refusals
	now := time.Unix(1e9, 0)
	r.Believe("agent", now)
	reviews := 0
	for i := range 10_000 {
		if token := fmt.Sprint(i); !r.TooMany("10.0.0.1", token, now) {
			reviews++
			r.Refused("10.0.0.1", now)
		}
	}
	if reviews != maxRefusals {
		t.Errorf("%d reviews, want %d", reviews, maxRefusals)
	}
	if r.TooMany("10.0.0.2", "other", now) {
		t.Error("another address is refused without a review")
	}
	if r.TooMany("10.0.0.1", "agent", now) {
		t.Error("a token that was believed is refused without a review")
	}
	later := now.Add(time.Minute)
	if r.TooMany("10.0.0.1", "again", later) {
		t.Error("the address is refused a minute later")
	}
	for i := range 2 * maxSources {
		r.Refused(fmt.Sprint("source-", i), later)
		r.Believe(fmt.Sprint("token-", i), later)
	}
	if len(r.from) > maxSources+1 || len(r.believed) > maxBelieved {
		t.Errorf("%d sources and %d tokens are remembered", len(r.from), len(r.believed))
	}
}

// TestAgentsAreReviewedWhenTheyRenew: an agent asks every half an hour, with the token that it had before.
func TestAgentsAreReviewedWhenTheyRenew(t *testing.T) {
	var r Refusals
	now := time.Unix(1e9, 0)
	for range 20 {
		for i := range maxRefusals {
			r.Refused("10.0.0.1", now.Add(time.Duration(i)*time.Second))
		}
		if now.After(time.Unix(1e9, 0)) && r.TooMany("10.0.0.1", "agent", now.Add(40*time.Second)) {
			t.Fatalf("after %s the agent's token is refused without a review", now.Sub(time.Unix(1e9, 0)))
		}
		r.Believe("agent", now.Add(40*time.Second))
		now = now.Add(30 * time.Minute)
	}
}
