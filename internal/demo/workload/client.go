package workload

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/weft-mesh/weft/internal/load"
)

// ClientOptions of Call.
type ClientOptions struct {
	URL            string
	Host           string // header; "" is the URL's
	Requests       int    // 0 is no bound
	Duration       time.Duration
	Rate           float64
	Connections    int
	NewConnections bool
	Timeout        time.Duration // of one request; 0 is that of package load
	JSON           bool          // print a load.Report as JSON
}

// Call sends requests and prints what came back. It fails if a request did.
func Call(ctx context.Context, out io.Writer, o ClientOptions) error {
	r, err := load.Run(ctx, load.Config{
		URL: o.URL, Host: o.Host, Requests: o.Requests, Duration: o.Duration, Rate: o.Rate,
		Workers: o.Connections, NewConnections: o.NewConnections, Timeout: o.Timeout,
	})
	if err != nil {
		return err
	}
	if o.JSON {
		err = json.NewEncoder(out).Encode(r)
	} else {
		_, err = r.WriteTo(out)
	}
	if err != nil {
		return err
	}
	if r.Failed > 0 {
		return fmt.Errorf("%d of %d requests failed", r.Failed, r.Requests)
	}
	return nil
}
