package mtls

import (
	"math/rand/v2"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// life is where one identity stands.
type life struct {
	due       time.Time // of the next attempt
	notAfter  time.Time // of the present SVID; zero before the first
	overdueAt time.Time // two thirds of its life
	failures  int       // attempts since the last success
	err       error
	overdue   bool
	ended     bool
}

// issued plans the renewal at half of the life that is left, give or take a tenth, so that a node's identities do not
// all come due at once.
func (l *life) issued(now time.Time, svid *model.SVID) {
	// The wall clock counts: certificates do not know of the monotonic one.
	now = now.Round(0)
	left := svid.NotAfter.Sub(now)
	*l = life{
		due:       now.Add(time.Duration(float64(left) * (0.45 + 0.1*rand.Float64()))),
		notAfter:  svid.NotAfter,
		overdueAt: now.Add(left * 2 / 3),
	}
}

// resumed plans the renewal of an SVID that was issued before this process began.
func (l *life) resumed(now time.Time, svid *model.SVID) {
	whole := svid.NotAfter.Sub(svid.NotBefore)
	l.issued(now, svid)
	l.due = svid.NotBefore.Add(time.Duration(float64(whole) * (0.45 + 0.1*rand.Float64())))
	l.overdueAt = svid.NotBefore.Add(whole * 2 / 3)
}

// failed plans the next attempt: after 1 s, doubling up to a minute, or to 5 s where a workload still waits for its
// first SVID, give or take a fifth.
func (l *life) failed(now time.Time, err error) {
	const first = time.Second
	most := time.Minute
	if l.notAfter.IsZero() {
		most = 5 * time.Second
	}
	pause := min(first<<min(l.failures, 10), most)
	l.failures++
	l.err = err
	l.due = now.Round(0).Add(time.Duration(float64(pause) * (0.8 + 0.4*rand.Float64())))
}

// ends is the end of the present SVID for people.
func (l *life) ends() string {
	if l.notAfter.IsZero() {
		return "there is none yet"
	}
	return l.notAfter.Format(time.RFC3339)
}
