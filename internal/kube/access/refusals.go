package access

import (
	"crypto/sha256"
	"sync"
	"time"
)

const (
	// maxRefusals are the tokens of one address that are refused in a minute. Until the minute is over, its other tokens are
	// refused without a review, so that who sends made-up ones does not load the API server.
	maxRefusals = 30
	// maxSources and maxBelieved bound what is remembered of a minute, and of believedFor. Sources beyond count as one.
	maxSources  = 4096
	maxBelieved = 16384
	// believedFor is as long as the kubelet keeps the token of an agent, which asks for a certificate every half an hour.
	believedFor = time.Hour
)

// Refusals counts the tokens that were refused in the present minute. A token that was believed in this hour or the one
// before is reviewed whatever came from its address, so that nobody keeps out an agent with the same address. A new token of that
// agent is refused while others there use up each minute.
type Refusals struct {
	mu               sync.Mutex
	minute, hour     time.Time
	from             map[string]int // by address
	believed, before map[[sha256.Size]byte]bool
}

// turn begins a minute, and an hour, if the last one is over.
func (r *Refusals) turn(now time.Time) {
	if r.from == nil || !within(now, r.minute, time.Minute) {
		r.minute, r.from = now, map[string]int{}
	}
	if r.believed == nil || !within(now, r.hour, believedFor) {
		r.hour = now
		r.before, r.believed = r.believed, map[[sha256.Size]byte]bool{}
	}
}

// within reports whether less than d has passed since began. The clock may have been set back.
func within(now, began time.Time, d time.Duration) bool {
	age := now.Sub(began)
	return age >= 0 && age < d
}

func (r *Refusals) source(address string) string {
	if _, known := r.from[address]; !known && len(r.from) >= maxSources {
		return ""
	}
	return address
}

// TooMany reports whether a token is refused without a review.
func (r *Refusals) TooMany(address, token string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(now)
	sum := sha256.Sum256([]byte(token))
	return r.from[r.source(address)] >= maxRefusals && !r.believed[sum] && !r.before[sum]
}

// Refused counts a token that a review refused.
func (r *Refusals) Refused(address string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(now)
	r.from[r.source(address)]++
}

// Believe remembers a token that a review took.
func (r *Refusals) Believe(token string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.turn(now); len(r.believed) < maxBelieved {
		r.believed[sha256.Sum256([]byte(token))] = true
	}
}
