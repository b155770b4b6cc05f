import java.io.PrintWriter;
import java.lang.reflect.Field;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.cert.X509Certificate;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;

import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509TrustManager;

import org.igniterealtime.smack.inttest.AbstractSmackIntTest;
import org.igniterealtime.smack.inttest.Configuration;
import org.igniterealtime.smack.inttest.ConnectionConfigurationBuilderApplier;
import org.igniterealtime.smack.inttest.FailedTest;
import org.igniterealtime.smack.inttest.SmackIntegrationTestFramework;
import org.igniterealtime.smack.inttest.SuccessfulTest;
import org.igniterealtime.smack.inttest.TestNotPossible;
import org.igniterealtime.smack.inttest.annotations.SmackIntegrationTest;
import org.igniterealtime.smack.inttest.annotations.SpecificationReference;
import org.jivesoftware.smackx.iqregister.AccountManager;
import org.reflections.Reflections;

/**
 * Runs Smack's integration tests against a server that lets accounts be made in band, and writes a line for each test: its
 * outcome (passed, failed, impossible), specification, name and reason, with tabs between.
 *
 *     java -cp 'LIBRARIES/*' SmackTests.java RESULTS HOST PORT DOMAIN required|disabled TEXTS
 *
 * A test runs when its name contains one of the texts in TEXTS, between commas; all run when that is empty. With -Dsinttest.debugger=console all stanzas are shown.
 */
public final class SmackTests {
    private static final String REPLY_TIMEOUT_MS = "5000";
    private static final String[] PACKAGES = { "org.jivesoftware.smackx", "org.jivesoftware.smack", "org.igniterealtime.smackx", "org.igniterealtime.smack" };

    /** What is tested is the server, whose certificate signs itself. */
    private static final X509TrustManager ANY_CERTIFICATE = new X509TrustManager() {
        @Override
        public void checkClientTrusted(X509Certificate[] chain, String type) {
        }

        @Override
        public void checkServerTrusted(X509Certificate[] chain, String type) {
        }

        @Override
        public X509Certificate[] getAcceptedIssuers() {
            return new X509Certificate[0];
        }
    };

    private final PrintWriter results;
    private final String host;
    private final int port;
    private final String domain;
    private final String security;
    /** The tests that have no outcome yet, as class and method. */
    private final Set<String> left;

    private SmackTests(PrintWriter results, String[] args) {
        this.results = results;
        host = args[1];
        port = Integer.parseInt(args[2]);
        domain = args[3];
        security = args[4];
        left = find(args[5]);
    }

    public static void main(String[] args) throws Throwable {
        // For uploads.
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, new TrustManager[] { ANY_CERTIFICATE }, null);
        HttpsURLConnection.setDefaultSSLSocketFactory(context.getSocketFactory());
        try (PrintWriter results = new PrintWriter(Files.newBufferedWriter(Path.of(args[0]), StandardCharsets.UTF_8))) {
            new SmackTests(results, args).run(args[5].isEmpty());
        }
        // Smack's threads stay.
        System.exit(0);
    }

    /** A test that throws a RuntimeException ends the framework's whole run: it has failed, and another run takes the rest. */
    private void run(boolean all) throws Throwable {
        String enabled = all ? null : String.join(",", left);
        while (!left.isEmpty()) {
            Run run = new Run(configuration(enabled));
            Throwable ended = null;
            try {
                run.run();
            } catch (Throwable problem) {
                ended = problem;
                problem.printStackTrace();
            }
            report(run.outcome());
            if (ended == null) break;
            // The framework says so when all that is left turned out to be impossible.
            if (left.isEmpty()) break;
            String culprit = testIn(ended);
            if (culprit == null) throw ended;
            for (String test : new TreeSet<>(left)) {
                if (test.equals(culprit) || test.startsWith(culprit + ".")) write("failed", test, "", "it ended the run: " + ended);
            }
            enabled = String.join(",", left);
        }
    }

    private static final class Run extends SmackIntegrationTestFramework {
        Run(Configuration configuration) {
            super(configuration);
        }

        TestRunResult outcome() {
            return testRunResult;
        }
    }

    private Configuration configuration(String enabled) throws Exception {
        Configuration configuration = Configuration.builder()
            .setService(domain)
            .setSecurityMode(security)
            .setReplyTimeout(REPLY_TIMEOUT_MS)
            .setDnsResolver(Configuration.DnsResolver.javax)
            .setDefaultConnection("tcp")
            .setEnabledConnections("tcp")
            .setDebugger(System.getProperty("sinttest.debugger"))
            .setEnabledTests(enabled)
            .build();
        if (security.equals("disabled")) AccountManager.sensitiveOperationOverInsecureConnectionDefault(true);
        ConnectionConfigurationBuilderApplier original = configuration.configurationApplier;
        // The framework knows no port.
        ConnectionConfigurationBuilderApplier applier = builder -> {
            original.applyConfigurationTo(builder);
            builder.setHost(host);
            builder.setPort(port);
            builder.setCustomX509TrustManager(ANY_CERTIFICATE);
        };
        Field field = Configuration.class.getField("configurationApplier");
        field.setAccessible(true);
        field.set(configuration, applier);
        return configuration;
    }

    private void report(SmackIntegrationTestFramework.TestRunResult outcome) {
        if (outcome == null) return;
        for (SuccessfulTest test : outcome.getSuccessfulTests()) write("passed", test.concreteTest.getMethod(), null);
        for (FailedTest test : outcome.getFailedTests()) write("failed", test.concreteTest.getMethod(), test.failureReason);
        for (TestNotPossible test : outcome.getNotPossibleTests()) write("impossible", test.concreteTest.getMethod(), test.testNotPossibleException);
        for (Map.Entry<Class<? extends AbstractSmackIntTest>, Throwable> entry : outcome.getImpossibleTestClasses().entrySet()) {
            for (Method method : entry.getKey().getMethods()) {
                if (isTest(method)) write("impossible", method, entry.getValue());
            }
        }
    }

    private void write(String outcome, Method method, Throwable reason) {
        SpecificationReference reference = method.getDeclaringClass().getAnnotation(SpecificationReference.class);
        String text = reason == null ? "" : outcome.equals("impossible") ? String.valueOf(reason.getMessage()) : reason.toString();
        write(outcome, nameOf(method), reference == null ? "" : reference.document(), text);
    }

    private void write(String outcome, String test, String specification, String reason) {
        // A run after an aborted one brings the same impossible classes again.
        if (!left.remove(test)) return;
        String name = test.replaceFirst("^.*\\.([^.]+\\.[^.]+)$", "$1");
        results.println(String.join("\t", outcome, specification, name, reason.replaceAll("\\s+", " ")));
    }

    private static Set<String> find(String texts) {
        Set<String> tests = new TreeSet<>();
        for (Class<?> type : new Reflections((Object[]) PACKAGES).getSubTypesOf(AbstractSmackIntTest.class)) {
            if (Modifier.isAbstract(type.getModifiers())) continue;
            for (Method method : type.getMethods()) {
                if (isTest(method) && containsOne(nameOf(method).toLowerCase(), texts.toLowerCase())) tests.add(nameOf(method));
            }
        }
        return tests;
    }

    private static boolean containsOne(String name, String texts) {
        for (String text : texts.split(",")) if (name.contains(text)) return true;
        return false;
    }

    private static boolean isTest(Method method) {
        return method.isAnnotationPresent(SmackIntegrationTest.class);
    }

    private static String nameOf(Method method) {
        return method.getDeclaringClass().getName() + "." + method.getName();
    }

    /** The test, or the class of tests while it was made, that threw; null when none did. */
    private static String testIn(Throwable thrown) throws ClassNotFoundException {
        for (Throwable each = thrown; each != null; each = each.getCause()) {
            for (StackTraceElement frame : each.getStackTrace()) {
                if (!frame.getClassName().contains(".smack")) continue;
                Class<?> type = Class.forName(frame.getClassName(), false, SmackTests.class.getClassLoader());
                if (!AbstractSmackIntTest.class.isAssignableFrom(type) || Modifier.isAbstract(type.getModifiers())) continue;
                if (frame.getMethodName().equals("<init>")) return type.getName();
                for (Method method : type.getMethods()) {
                    if (isTest(method) && method.getName().equals(frame.getMethodName())) return nameOf(method);
                }
            }
        }
        return null;
    }
}
