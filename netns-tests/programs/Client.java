// Counts how many of COUNT requests to each URL Java considers answered, with and without keep-alive.
// usage: java Client.java COUNT CERTIFICATE URL...
import java.io.FileInputStream;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class Client {
    static int answered, failed;

    interface Request { int length() throws Exception; }

    static void attempt(Request request) {
        try {
            if (request.length() == 0) throw new IllegalStateException("an empty answer");
            answered++;
        } catch (Exception error) {
            failed++;
            System.err.println("java " + error);
        }
    }

    public static void main(String[] arguments) throws Exception {
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null, null);
        var certificate = CertificateFactory.getInstance("X.509").generateCertificate(new FileInputStream(arguments[1]));
        trusted.setCertificateEntry("server", certificate);
        var managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(trusted);
        var context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        HttpsURLConnection.setDefaultSSLSocketFactory(context.getSocketFactory());
        var client = HttpClient.newBuilder().sslContext(context).version(HttpClient.Version.HTTP_1_1).build();
        for (int argument = 2; argument < arguments.length; argument++) {
            var uri = URI.create(arguments[argument]);
            for (int n = Integer.parseInt(arguments[0]); n > 0; n--) {
                attempt(() -> client.send(HttpRequest.newBuilder(uri).build(), HttpResponse.BodyHandlers.ofByteArray()).body().length);
                attempt(() -> {
                    var connection = (HttpURLConnection) uri.toURL().openConnection();
                    connection.setRequestProperty("Connection", "close");
                    try (var answer = connection.getInputStream()) { return answer.readAllBytes().length; }
                });
            }
        }
        System.out.println(answered + " " + failed);
        System.exit(0);
    }
}
