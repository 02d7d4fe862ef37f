package observe

import (
	"net/netip"
	"sync"
	"time"
)

// Bounds of the questions that wait for an answer: of one local address, and of all.
const (
	maxQueriesOfOne = 1024
	maxQueries      = 16384
	// QueryTimeout is how long an answer is waited for, as resolvers do.
	QueryTimeout = 5 * time.Second
)

// DNSDatagram is a message of DNS: a datagram, or what a segment of TCP begins with.
type DNSDatagram struct {
	Time           time.Time
	Workload       string // of the end where it was seen; "" if that is not known
	Client, Server netip.AddrPort
	// Service is the address that the client sent to, where Server is a backend of it; else it is not valid.
	Service  netip.AddrPort
	AtClient bool // seen at the client, else at the server
	TCP      bool // what is not a message may look like one
	Length   int  // bytes
	Data     []byte
}

// DNSExchange is a question with its answer, or one that has none.
type DNSExchange struct {
	DNS
	Client, Server, Service netip.AddrPort
	AtClient, TCP           bool
	Workload                string        // of the end where it was seen; "" if that is not known
	Time                    time.Time     // of the end
	Took                    time.Duration // 0 if the question was not seen
	Sent, Received          int           // bytes
}

// Queries brings questions and answers together. The zero value is ready. It is safe for concurrent use.
type Queries struct {
	mu      sync.Mutex
	waiting map[queryKey]*DNSExchange
	of      map[netip.Addr]int // how many of them there are, by the local address
}

type queryKey struct {
	client, server netip.AddrPort
	atClient, tcp  bool
	id             uint16
}

func (k queryKey) local() netip.Addr {
	if k.atClient {
		return k.client.Addr()
	}
	return k.server.Addr()
}

// Take takes a datagram, and returns the exchange that it ends, if it does: its own, or that of another question under the same
// number (ID), of which an answer is not waited for any more. An answer to another question than was asked is an exchange
// without a question; by TCP, where a stream may have anything, it is nothing. lost is true for a question that there is no room for: without an answer it is not heard of again.
func (q *Queries) Take(d DNSDatagram) (x *DNSExchange, lost bool) {
	h, dns, err := readDNS(d.Data)
	if err != nil {
		return nil, false
	}
	if d.TCP && dns.Name == "" && !h.Response {
		return nil, false
	}
	key := queryKey{d.Client, d.Server, d.AtClient, d.TCP, h.ID}
	own := &DNSExchange{
		DNS: dns, Client: d.Client, Server: d.Server, Service: d.Service, AtClient: d.AtClient, TCP: d.TCP, Workload: d.Workload, Time: d.Time,
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	x = q.waiting[key]
	same := x != nil && x.Name == dns.Name && x.Type == dns.Type
	if !h.Response {
		if same {
			return nil, false // the client asks again
		}
		if x != nil {
			q.remove(key)
			x.Took, x.Time = max(d.Time.Sub(x.Time), 0), d.Time
		}
		own.Sent = d.Length
		return x, !q.add(key, own)
	}
	// Some errors repeat no question.
	if x == nil || !same && dns.Name != "" {
		if d.TCP {
			return nil, false
		}
		own.Received = d.Length
		return own, false
	}
	q.remove(key)
	x.Code, x.Answers, x.Received = dns.Code, dns.Answers, d.Length
	x.Took, x.Time = max(d.Time.Sub(x.Time), 0), d.Time
	return x, false
}

// Waiting is the number of questions that wait for an answer.
func (q *Queries) Waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting)
}

func (q *Queries) add(key queryKey, x *DNSExchange) bool {
	if q.waiting == nil {
		q.waiting, q.of = map[queryKey]*DNSExchange{}, map[netip.Addr]int{}
	}
	local := key.local()
	if len(q.waiting) >= maxQueries || q.of[local] >= maxQueriesOfOne {
		return false
	}
	q.waiting[key] = x
	q.of[local]++
	return true
}

func (q *Queries) remove(key queryKey) {
	delete(q.waiting, key)
	local := key.local()
	if q.of[local]--; q.of[local] == 0 {
		delete(q.of, local)
	}
}

// Unanswered returns the questions that were asked QueryTimeout before now and have no answer, and forgets them.
func (q *Queries) Unanswered(now time.Time) []*DNSExchange {
	q.mu.Lock()
	defer q.mu.Unlock()
	var out []*DNSExchange
	for key, x := range q.waiting {
		if age := now.Sub(x.Time); age >= QueryTimeout {
			q.remove(key)
			x.Took, x.Time = age, now
			out = append(out, x)
		}
	}
	return out
}
